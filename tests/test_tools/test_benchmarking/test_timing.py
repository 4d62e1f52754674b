from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from digits_runner import build_digits_runner
from torch import distributed, nn

from benchmarking import timing


def test_rounds_in_turns_and_their_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    used = [0]  # beyond the ten bytes that are held
    cuda = SimpleNamespace(
        is_available=lambda: True,
        synchronize=lambda: None,
        memory_allocated=lambda: 10,
        max_memory_allocated=lambda: 10 + max(used),
        reset_peak_memory_stats=lambda: used.__setitem__(slice(None), [0]),
    )
    monkeypatch.setattr(timing, 'torch', SimpleNamespace(cuda=cuda))

    def note(name: str, memory: int = 0, seconds: float = 0.0) -> None:
        calls.append(name)
        used.append(memory)
        time.sleep(seconds)

    def methods(runner: Any) -> dict:
        train_step = runner.model.train_step

        def noted(*args: Any, **kwargs: Any) -> Any:
            note('iteration', memory=3)
            return train_step(*args, **kwargs)

        runner.model.__dict__['train_step'] = noted
        return {n: lambda n=n: note(f'to {n}') for n in ('1', '2')}

    # The rival needs more memory and time: neither must become ours.
    rivals = {'slow': lambda: note('rival', memory=7, seconds=0.05)}
    hook = timing.Interleaving(methods, lambda _: rivals, rounds=2, block=2)
    runner = build_digits_runner(
        tmp_path, 8, epochs=100, train_cfg=dict(val_interval=1000)
    )
    runner.register_hook(hook)
    with pytest.raises(timing.Finished):
        runner.train()
    ours = ['to 1', 'iteration', 'iteration', 'to 2', 'iteration', 'iteration']
    assert calls == 3 * [*ours, 'rival', 'rival']
    shape = {k: [len(b) for b in rounds] for k, rounds in hook.times.items()}
    assert shape == {'1': [2, 2], '2': [2, 2], 'slow': [2, 2]}
    assert all(0.05 <= t < 0.5 for block in hook.times['slow'] for t in block)
    assert min(hook.times['1'][1]) > 0
    assert hook.peak_memory == {'1': 3, '2': 3, 'slow': 7}


def test_all_gradients_are_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    model[1].bias.requires_grad_(False)
    sent: list[torch.Tensor] = []

    def exchange(tensor: torch.Tensor) -> None:
        sent.append(tensor)
        time.sleep(0.1 * len(sent))

    monkeypatch.setattr(distributed, 'barrier', lambda: None)
    monkeypatch.setattr(distributed, 'all_reduce', exchange)
    found = timing.time_all_reduce(model, rounds=3)
    assert [one.shape for one in sent] == 4 * [(3 * 5 + 5 + 5 * 2,)]
    assert found['bytes'] == 4 * (3 * 5 + 5 + 5 * 2)
    assert 0.3 <= found['seconds'] < 0.4  # the median without the first
