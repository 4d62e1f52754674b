"""What two work dirs of trainings differ in."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Of the machine, not of the training.
_CLOCKS = ('time', 'data_time', 'memory', 'eta')
# Of the message hub: the config's text, dates and versions, and where the
# files are.
_PLACES = {'cfg', 'experiment_name', 'mmengine_version', 'last_ckpt'}
_PLACES |= {'best_ckpt', 'outdated_ckpts', 'preemption_ckpt'}


def differences(first: Path, second: Path) -> list[str]:
    """Where the work dirs of two finished trainings differ, bit for bit.

    Compared are every checkpoint (weights, optimiser, schedulers, average
    weights, random streams, logged figures), the checkpoints' names, and the
    last line of each step in the logs; not times and memory. The second
    training may consist of several starts.
    """
    found = []
    one, other = _checkpoints(first), _checkpoints(second)
    if one.keys() != other.keys():
        found.append(f'checkpoints: {sorted(one)} and {sorted(other)}')
    for name in sorted(one.keys() & other.keys()):
        pair = [torch.load(p[name], weights_only=True) for p in (one, other)]
        for content in pair:
            content.pop('meta', None)  # dates and the config's text
        found += [f'{name}: {where}' for where in _unequal(*pair)]
    lines, others = _log(first), _log(second)
    steps = [
        key
        for key in sorted(lines.keys() | others.keys())
        if lines.get(key) != others.get(key)
    ]
    return found + ([f'logs at {steps[:5]}'] if steps else [])


def _checkpoints(folder: Path) -> dict[str, Path]:
    """The files by name, without the hash of a published one."""
    return {
        path.name.split('-')[0] + ('-' if '-' in path.name else ''): path
        for path in folder.glob('*.pth')
    }


def _unequal(first: Any, second: Any, where: str = '') -> Iterator[str]:
    if type(first) is not type(second):
        yield f'{where}: {type(first).__name__}, {type(second).__name__}'
    elif isinstance(first, dict):
        if one_sided := (first.keys() ^ second.keys()) - _PLACES:
            yield f'{where}: keys {sorted(one_sided)}'
        for key in first.keys() & second.keys():
            if key not in _PLACES and not str(key).endswith(_CLOCKS):
                yield from _unequal(first[key], second[key], f'{where}.{key}')
    elif isinstance(first, (list, tuple)):
        if len(first) != len(second):
            yield f'{where}: {len(first)} and {len(second)} entries'
        for number, pair in enumerate(zip(first, second)):
            yield from _unequal(*pair, f'{where}[{number}]')
    elif isinstance(first, Tensor):
        if not torch.equal(first, second):
            yield where
    elif hasattr(first, 'data') and hasattr(first, '__dict__'):
        # A history of MMEngine's message hub.
        yield from _unequal(vars(first), vars(second), where)
    else:
        same = first == second
        if not (same.all() if hasattr(same, 'all') else same):
            yield f'{where}: {first!r} and {second!r}'


def _log(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The last line of each step over all starts, without clocks."""
    lines = {}
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        for text in path.read_text('utf-8').splitlines():
            line = json.loads(text)
            kind = 'train' if 'loss' in line else 'val'
            lines[kind, line['step']] = {
                key: value for key, value in line.items() if key not in _CLOCKS
            }
    return lines
