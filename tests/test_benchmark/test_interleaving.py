from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from digits_runner import build_digits_runner
from mmengine.hooks import Hook

from m2at_mm.benchmark import Interleaving, interleaving


def test_rounds_in_turns(tmp_path: Path) -> None:
    calls: list[str] = []

    def methods(runner: Any) -> dict:
        train_step = runner.model.train_step

        def noted(*args: Any, **kwargs: Any) -> Any:
            calls.append('iteration')
            return train_step(*args, **kwargs)

        runner.model.__dict__['train_step'] = noted
        return {
            'one': lambda: calls.append('to one'),
            'two': lambda: calls.append('to two'),
        }

    def rivals(runner: Any) -> dict:
        def slow() -> None:
            calls.append('rival')
            time.sleep(0.05)

        return {'slow': slow}

    hook = Interleaving(methods, rivals, rounds=2, block=2, warmup=1)
    runner = build_digits_runner(
        tmp_path, 8, epochs=100, train_cfg=dict(val_interval=1000)
    )
    runner.register_hook(hook)
    with pytest.raises(Interleaving.Finished):
        runner.train()
    ours = ['to one', 'iteration', 'iteration', 'to two'] + ['iteration'] * 2
    assert calls == 3 * [*ours, 'rival', 'rival']
    assert list(hook.times) == ['one', 'two', 'slow']
    assert all(
        [len(block) for block in rounds] == [2, 2]
        for rounds in hook.times.values()
    )
    assert all(0.05 <= t < 0.5 for block in hook.times['slow'] for t in block)
    # The rivals' time is not ours.
    assert min(hook.times['one'][1]) > 0


class FakeCuda:
    """Ten bytes are held; an iteration needs as many more as it says."""

    HELD = 10

    def __init__(self) -> None:
        self.peak = 0

    def need(self, amount: int) -> None:
        self.peak = max(self.peak, self.HELD + amount)

    def is_available(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    def memory_allocated(self) -> int:
        return self.HELD

    def max_memory_allocated(self) -> int:
        return self.peak

    def reset_peak_memory_stats(self) -> None:
        self.peak = self.HELD


def test_peak_memory_leaves_out_what_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda()
    monkeypatch.setattr(interleaving, 'torch', SimpleNamespace(cuda=cuda))
    # The rival's passes need more: its peak must not become ours.
    hook = Interleaving(
        lambda runner: {'ours': lambda: None},
        lambda runner: {'rival': lambda: cuda.need(7)},
        rounds=2,
        block=1,
    )

    class Needs(Hook):
        def before_train_iter(self, *args: Any, **kwargs: Any) -> None:
            cuda.need(3)

    runner = build_digits_runner(
        tmp_path, 8, epochs=100, train_cfg=dict(val_interval=1000)
    )
    runner.register_hook(Needs())
    runner.register_hook(hook)
    with pytest.raises(Interleaving.Finished):
        runner.train()
    assert hook.peak_memory == {'ours': 3, 'rival': 7}
