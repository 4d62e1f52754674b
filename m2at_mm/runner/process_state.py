"""What a training has in memory and no checkpoint of MMEngine holds."""

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.hooks import EarlyStoppingHook
from mmengine.runner import Runner
from torch import Tensor, nn

from m2at_mm.methods.base import Method
from m2at_mm.model_wrappers.distributed import bare_model

# Their hooks were looked at: they keep their state in the checkpoint, derive
# it from the epoch, or are EarlyStoppingHook.
_KNOWN = ('mmengine', 'mmpretrain', 'm2at_mm')


def process_state(model: nn.Module) -> dict[str, Any]:
    """The state of this process, in types that load with ``weights_only``.

    Its random streams, the method's state, gradients that are being
    accumulated, and with several processes its running statistics.
    """
    bare = bare_model(model)
    method = getattr(bare, 'method', None)
    kept = method.state_dict() if isinstance(method, Method) else {}
    parameters = bare.named_parameters()
    gradients = {k: p.grad for k, p in parameters if p.grad is not None}
    buffers = dict(bare.named_buffers()) if get_world_size() > 1 else {}
    return dict(
        streams=random_streams(),
        method=_on_cpu(kept),
        gradients=_on_cpu(gradients),
        buffers=_on_cpu(buffers),
    )


def set_process_state(model: nn.Module, state: dict[str, Any]) -> None:
    """Go on from what :func:`process_state` gave, on any device."""
    set_random_streams(state['streams'])
    bare = bare_model(model)
    if state['method']:
        bare.method.load_state_dict(state['method'])
    parameters = dict(bare.named_parameters())
    for name, gradient in state.get('gradients', {}).items():
        parameters[name].grad = gradient.to(parameters[name].device)
    buffers = dict(bare.named_buffers())
    for name, value in state['buffers'].items():
        buffers[name].copy_(value)


def random_streams() -> dict[str, Any]:
    """The states of Python's, NumPy's, PyTorch's and the GPU's streams."""
    version, words, gauss = random.getstate()
    state: Any = np.random.get_state()
    name, keys, position, has_gauss, cached = state
    streams: dict[str, Any] = dict(
        python=[version, list(words), gauss],
        numpy=[name, keys.tolist(), position, has_gauss, float(cached)],
        torch=torch.get_rng_state(),
    )
    if torch.cuda.is_available():
        streams['cuda'] = torch.cuda.get_rng_state()
    return streams


def set_random_streams(streams: dict[str, Any]) -> None:
    """Go on from what :func:`random_streams` gave."""
    version, words, gauss = streams['python']
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = streams['numpy']
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(streams['torch'].cpu())
    if 'cuda' in streams and torch.cuda.is_available():
        torch.cuda.set_rng_state(streams['cuda'].cpu())


def hook_states(runner: Runner) -> dict[str, Any]:
    """The states of hooks that MMEngine does not save, by the hooks' names."""
    states = {name: _state_of(hook) for name, hook in _named_hooks(runner)}
    return {name: one for name, one in states.items() if one is not None}


def set_hook_states(runner: Runner, states: dict[str, Any]) -> None:
    """Go on from what :func:`hook_states` gave, for hooks still there."""
    for name, hook in _named_hooks(runner):
        if name in states and isinstance(hook, EarlyStoppingHook):
            hook.wait_count = int(states[name]['wait_count'])
            hook.best_score = states[name]['best_score']
        elif name in states:
            hook.load_state_dict(states[name])


def hooks_that_forget(runner: Runner) -> list[str]:
    """Names of others' hooks with attributes and without ``state_dict()``."""
    return [
        name
        for name, hook in _named_hooks(runner)
        if type(hook).__module__.split('.')[0] not in _KNOWN
        and vars(hook)
        and _state_of(hook) is None
    ]


def _named_hooks(runner: Runner) -> Iterator[tuple[str, Any]]:
    """Hooks by class name, numbered where there are several of a class."""
    seen: Counter[str] = Counter()
    for hook in runner.hooks:
        name = type(hook).__name__
        yield f'{name}_{seen[name]}' if seen[name] else name, hook
        seen[name] += 1


def _state_of(hook: Any) -> Any:
    if isinstance(hook, EarlyStoppingHook):
        return dict(
            wait_count=hook.wait_count, best_score=float(hook.best_score)
        )
    known = hasattr(hook, 'state_dict') and hasattr(hook, 'load_state_dict')
    return hook.state_dict() if known else None


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in tensors.items()}
