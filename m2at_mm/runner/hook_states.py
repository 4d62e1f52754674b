"""What hooks keep in memory alone and a resumed run needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.runner import Runner

# Their hooks were looked at: they keep their state in the checkpoint, derive
# it from the epoch, or are EarlyStoppingHook.
_KNOWN = ('mmengine', 'mmpretrain', 'm2at_mm')
_EARLY_STOPPING = ('wait_count', 'best_score')


def hook_states(runner: Runner) -> dict[str, Any]:
    """The states of hooks that a checkpoint of MMEngine does not hold.

    Args:
        runner (Runner): Runner of the training.

    Returns:
        dict: The state by the hook's name, of each EarlyStoppingHook and of
        each hook with ``state_dict()`` and ``load_state_dict()``.
    """
    states = {}
    for name, hook in _named_hooks(runner):
        if isinstance(hook, EarlyStoppingHook):
            states[name] = {
                key: float(getattr(hook, key)) for key in _EARLY_STOPPING
            }
        elif _tells_its_state(hook):
            states[name] = hook.state_dict()
    return states


def set_hook_states(runner: Runner, states: dict[str, Any]) -> None:
    """Go on from what :func:`hook_states` gave.

    Args:
        runner (Runner): Runner with hooks of the same kinds.
        states (dict): States of hooks that are no longer there are left out.
    """
    for name, hook in _named_hooks(runner):
        if name not in states:
            continue
        if isinstance(hook, EarlyStoppingHook):
            hook.wait_count = int(states[name]['wait_count'])
            hook.best_score = states[name]['best_score']
        else:
            hook.load_state_dict(states[name])


def hooks_that_forget(runner: Runner) -> list[str]:
    """Hooks whose attributes a resumed run cannot restore.

    Args:
        runner (Runner): Runner of the training.

    Returns:
        list[str]: Names of hooks of neither MMEngine, mmpretrain nor this
        package that have attributes and no ``state_dict()``.
    """
    return [
        name
        for name, hook in _named_hooks(runner)
        if type(hook).__module__.split('.')[0] not in _KNOWN
        and vars(hook)
        and not isinstance(hook, EarlyStoppingHook)
        and not _tells_its_state(hook)
    ]


def _named_hooks(runner: Runner) -> Iterator[tuple[str, Hook]]:
    """Hooks by class name, numbered where there are several of a class."""
    seen: Counter[str] = Counter()
    for hook in runner.hooks:
        name = type(hook).__name__
        yield f'{name}_{seen[name]}' if seen[name] else name, hook
        seen[name] += 1


def _tells_its_state(hook: Any) -> bool:
    return hasattr(hook, 'state_dict') and hasattr(hook, 'load_state_dict')
