from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from digits_runner import build_digits_runner
from mmengine.hooks import Hook

from m2at_mm.benchmark import PARTS, PartClock, parts


def _slowed(function: Any, seconds: float) -> Any:
    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(seconds)
        return function(*args, **kwargs)

    return slow


class SlowHook(Hook):
    def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
        time.sleep(0.3)


def test_time_is_found_in_its_part(tmp_path: Path) -> None:
    runner = build_digits_runner(
        tmp_path, 8, epochs=100, train_cfg=dict(val_interval=1000)
    )
    model: Any = runner.model
    # Each part is slowed down by another time.
    for owner, name, seconds in (
        (model.data_preprocessor, 'forward', 0.1),
        (model, 'attack_in_training', 0.5),
        (model.method, 'mix', 0.2),
        (model, 'supervised_loss', 0.4),
    ):
        owner.__dict__[name] = _slowed(getattr(owner, name), seconds)
    clock = PartClock(iterations=2)
    runner.register_hook(SlowHook())
    runner.register_hook(clock)
    with pytest.raises(PartClock.Finished):
        runner.train()
    assert list(clock.times) == list(PARTS)
    assert all(len(times) == 2 for times in clock.times.values())
    expected = {
        'data': 0.0,
        'preprocessing': 0.1,
        'attack': 0.5,
        'mask and mix': 0.2,
        'loss and backward': 0.4,
        'optimiser': 0.0,
        'hooks': 0.3,
    }
    found = {part: min(times) for part, times in clock.times.items()}
    assert all(found[part] >= expected[part] for part in PARTS), found
    assert found['data'] < 0.35 and found['optimiser'] < 0.35
    # Nothing is left over when a function of the CPU returns.
    assert all(max(waits) < 0.01 for waits in clock.waits.values())


def test_waiting_for_a_gpu_is_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, left = PartClock(), [0.0]

    def wait_for_gpu() -> float:
        time.sleep(left.pop())
        left.append(0.0)
        return time.perf_counter()

    monkeypatch.setattr(parts, 'now', wait_for_gpu)

    def launch() -> None:
        time.sleep(0.02)
        left[0] = 0.1

    clock._timed(launch, 'attack')()
    assert clock._spent['attack'] >= 0.12
    assert 0.1 <= clock._waited['attack'] < 0.12
