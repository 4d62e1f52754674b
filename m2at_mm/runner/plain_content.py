"""The content of checkpoints in types that PyTorch loads by itself.

``torch.load(weights_only=True)``, the default since PyTorch 2.6, refuses the
``HistoryBuffer`` of MMEngine's message hub and NumPy's types.
"""

import logging
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from torch import Tensor

# The parts that hold more than tensors, besides the message hub.
_PARTS = ('meta', 'optimizer', 'param_schedulers', 'hook_states')
_KIND = 'm2at_mm.kind'
# Subclasses become the type itself.
_SCALARS: tuple[Any, ...] = (bool, int, float, complex, str, bytes)
_LOADABLE = (Tensor, torch.dtype, torch.device, type(None))


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
