"""What a checkpoint holds besides, in types that PyTorch loads by itself."""

import logging
import random
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.hooks import EarlyStoppingHook
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import Runner
from torch import Tensor, nn

from m2at_mm.methods.base import Method
from m2at_mm.model_wrappers.distributed import bare_model

# The parts that hold more than tensors, besides the message hub.
_PARTS = ('meta', 'optimizer', 'param_schedulers', 'hook_states')
_KIND = 'm2at_mm.kind'
# Subclasses become the type itself.
_SCALARS: tuple[Any, ...] = (bool, int, float, complex, str, bytes)
_LOADABLE = (Tensor, torch.dtype, torch.device, type(None))

# Their hooks were looked at: they keep their state in the checkpoint, derive
# it from the epoch, or are EarlyStoppingHook.
_KNOWN = ('mmengine', 'mmpretrain', 'm2at_mm')


def process_state(model: nn.Module, *averages: nn.Module) -> dict[str, Any]:
    """The state of this process, in types that load with ``weights_only``.

    Random streams, the method's state, accumulated gradients, and with several
    processes running statistics, also those of average weights.
    """
    bare = bare_model(model)
    method = getattr(bare, 'method', None)
    kept = method.state_dict() if isinstance(method, Method) else {}
    parameters = bare.named_parameters()
    gradients = {k: p.grad for k, p in parameters if p.grad is not None}
    buffers = _buffers(bare, *averages) if get_world_size() > 1 else {}
    tensors = dict(method=kept, gradients=gradients, buffers=buffers)
    state: dict[str, Any] = dict(streams=random_streams())
    for part, named in tensors.items():
        state[part] = {k: one.detach().cpu() for k, one in named.items()}
    return state


def _buffers(model: nn.Module, *averages: nn.Module) -> dict[str, Tensor]:
    found = dict(model.named_buffers())
    for place, average in enumerate(averages):
        found.update(average.named_buffers(f'averages.{place}'))
    return found


def set_process_state(
    model: nn.Module, state: dict[str, Any], *averages: nn.Module
) -> None:
    """Go on from what :func:`process_state` gave, on any device."""
    set_random_streams(state['streams'])
    bare = bare_model(model)
    if state['method']:
        bare.method.load_state_dict(state['method'])
    parameters = dict(bare.named_parameters())
    for name, gradient in state.get('gradients', {}).items():
        parameters[name].grad = gradient.to(parameters[name].device)
    buffers = _buffers(bare, *averages)
    # Averages may have been switched on or off since.
    for name in buffers.keys() & state['buffers']:
        buffers[name].copy_(state['buffers'][name])


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
            vars(hook).update(states[name])
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
        waited, best = hook.wait_count, float(hook.best_score)
        return dict(wait_count=waited, best_score=best)
    known = hasattr(hook, 'state_dict') and hasattr(hook, 'load_state_dict')
    return hook.state_dict() if known else None


def make_plain(checkpoint: dict[str, Any]) -> None:
    """Replace the entries of a checkpoint that only some environments load."""
    hub = checkpoint.get('message_hub', {})
    plain_hub = {part: dict(entries) for part, entries in hub.items()}
    for entries in plain_hub.values():
        for name, value in list(entries.items()):
            try:
                entries[name] = _plain(value)
            except TypeError as error:
                del entries[name]
                _warn(f'{name!r} of the message hub is not saved: {error}')
    if hub:
        checkpoint['message_hub'] = plain_hub
    for part in checkpoint.keys() & set(_PARTS):
        try:
            checkpoint[part] = _plain(checkpoint[part])
        except TypeError as error:
            _warn(f'{part!r} of the checkpoint is saved as it is: {error}')


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)


def restore(checkpoint: dict[str, Any]) -> None:
    """Undo :func:`make_plain`; what other tools saved stays as it is."""
    for part in checkpoint.keys() & {'message_hub', *_PARTS}:
        checkpoint[part] = restored(checkpoint[part])


def _plain(value: Any) -> Any:
    if isinstance(value, HistoryBuffer):
        log, count = map(_plain, value.data)
        content = dict(log=log, count=count, max_length=value.max_length)
        return {_KIND: 'HistoryBuffer', **content}
    if isinstance(value, np.ndarray):
        return {_KIND: 'ndarray', 'values': torch.tensor(value)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        mapping = OrderedDict if isinstance(value, OrderedDict) else dict
        return mapping((_plain(k), _plain(v)) for k, v in value.items())
    for sequence in (list, tuple, set):
        if isinstance(value, sequence):
            return sequence(map(_plain, value))
    for scalar in _SCALARS:
        if isinstance(value, scalar):
            return scalar(value)
    if isinstance(value, _LOADABLE):
        return value
    raise TypeError(
        f'torch.load with weights_only=True refuses a {type(value).__name__}: '
        'keep numbers, strings, tensors, lists or dicts of them'
    )


def restored(value: Any) -> Any:
    """The content that was made plain, of any part and on any device."""
    if isinstance(value, dict):
        kind = value.get(_KIND)
        if kind == 'ndarray':
            return value['values'].cpu().numpy()
        content = {k: restored(v) for k, v in value.items() if k != _KIND}
        if kind == 'HistoryBuffer':
            return HistoryBuffer(*content.values())
        return type(value)(content)
    if type(value) in (list, tuple, set):
        return type(value)(map(restored, value))
    return value
