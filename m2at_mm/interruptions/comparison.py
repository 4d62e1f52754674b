"""What two work dirs of trainings differ in."""

from __future__ import annotations

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
_PLACES = (
    'cfg',
    'experiment_name',
    'mmengine_version',
    'last_ckpt',
    'best_ckpt',
    'outdated_ckpts',
    'preemption_ckpt',
)


def differences(first: Path, second: Path) -> list[str]:
    """Compare two finished trainings bit for bit.

    Compared are every checkpoint (weights, optimiser, schedulers, average
    weights, random streams, logged figures), the checkpoints' names, and the
    lines of the logs; not times and memory.

    Args:
        first (Path): Work dir of a training.
        second (Path): Of another one, which may consist of several starts.

    Returns:
        list[str]: Where they differ, empty if nowhere.
    """
    found = []
    names = [_checkpoints(folder) for folder in (first, second)]
    if names[0].keys() != names[1].keys():
        found.append(f'checkpoints: {sorted(names[0])} and {sorted(names[1])}')
    for name in sorted(names[0].keys() & names[1].keys()):
        pair = [torch.load(n[name], weights_only=True) for n in names]
        for one in pair:
            one.pop('meta', None)  # dates and the config's text
        found += [f'{name}: {where}' for where in _unequal(*pair)]
    logs = [_log(folder) for folder in (first, second)]
    if logs[0] != logs[1]:
        every = logs[0].keys() | logs[1].keys()
        steps = [k for k in every if logs[0].get(k) != logs[1].get(k)]
        found.append(f'logs at {sorted(steps)[:5]}')
    return found


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
        one_sided = (first.keys() ^ second.keys()) - set(_PLACES)
        if one_sided:
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
    elif not _same(first, second):
        yield f'{where}: {first!r} and {second!r}'


def _same(first: Any, second: Any) -> bool:
    same = first == second
    return bool(same.all() if hasattr(same, 'all') else same)


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
