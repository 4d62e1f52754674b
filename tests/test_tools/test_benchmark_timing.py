import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from digits_runner import build_digits_runner
from mmengine.hooks import Hook
from torch import distributed, nn

from benchmarking import timing

GPU = 0.12  # seconds
# What each part of an iteration takes at least, in seconds.
LEAST = {'preprocessing': 0.05, 'attack': 0.25, 'mask and mix': 0.1}
LEAST |= {'loss and backward': 0.2, 'hooks': 0.15}


@pytest.fixture
def runner(tmp_path: Path) -> Any:
    """Eight iterations."""
    loader = dict(batch_size=2, num_workers=0, persistent_workers=False)
    loaders = dict(train_dataloader=loader, val_dataloader=loader)
    return build_digits_runner(tmp_path, 16, **loaders)


def train(runner: Any, hook: Hook) -> None:
    runner.register_hook(hook)
    with pytest.raises(timing.Finished):
        runner.train()


def test_rounds_in_turns_and_memory(runner: Any, monkeypatch: Any) -> None:
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
        return {n: lambda n=n: note(f'to {n}') for n in ('1', '2')}

    iteration = Hook()
    iteration.after_train_iter = lambda *_, **__: note('iteration', 3)
    runner.register_hook(iteration)
    # The rival needs more memory and time: neither must become ours.
    rivals = {'slow': lambda: note('rival', memory=7, seconds=0.05)}
    hook = timing.Interleaving(methods, lambda _: rivals, rounds=1, block=2)
    train(runner, hook)
    ours = ['to 1', 'iteration', 'iteration', 'to 2', 'iteration', 'iteration']
    assert calls == 2 * [*ours, 'rival', 'rival']
    shape = {k: [len(b) for b in rounds] for k, rounds in hook.times.items()}
    assert shape == {'1': [2], '2': [2], 'slow': [2]}
    assert all(0.05 <= t < 0.5 for t in hook.times['slow'][0])
    assert min(hook.times['1'][0]) > 0
    assert hook.peak_memory == {'1': 3, '2': 3, 'slow': 7}


def test_time_is_found_in_its_part(runner: Any, monkeypatch: Any) -> None:
    left = [0.0]

    def wait_for_gpu() -> float:
        time.sleep(left[0])
        left[0] = 0.0
        return time.perf_counter()

    def slowly(function: Any, part: str, *args: Any, **kwargs: Any) -> Any:
        time.sleep(LEAST[part])
        result = function(*args, **kwargs)
        left[0] = GPU if part == 'attack' else 0.0
        return result

    monkeypatch.setattr(timing, 'now', wait_for_gpu)
    hook, model = Hook(), runner.model
    owners = (model.data_preprocessor, model, model.method, model, hook)
    names = 'forward attack_in_training mix supervised_loss after_train_iter'
    for owner, name, part in zip(owners, names.split(), LEAST):
        owner.__dict__[name] = partial(slowly, getattr(owner, name), part)
    clock = timing.PartClock(iterations=2)
    runner.register_hook(hook)
    train(runner, clock)
    assert list(clock.times) == list(clock.waits) == list(timing.PARTS)
    assert all(len(times) == 2 for times in clock.times.values())
    found = {part: min(times) for part, times in clock.times.items()}
    assert all(found[part] >= LEAST.get(part, 0) for part in found), found
    assert found['data'] < 0.2 and found['optimiser'] < 0.2
    assert found['attack'] >= 0.25 + GPU
    waited = {part: min(times) for part, times in clock.waits.items()}
    assert waited.pop('attack') >= GPU
    assert max(waited.values()) < 0.01


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
