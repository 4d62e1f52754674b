from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from digits_runner import build_digits_runner
from mmengine.hooks import Hook

from benchmarking import parts
from benchmarking.timing import Finished

# Seconds that each part takes longer on the host, and that the GPU then
# still works.
HOST = {
    'preprocessing': 0.05,
    'attack': 0.25,
    'mask and mix': 0.1,
    'loss and backward': 0.2,
    'hooks': 0.15,
}
GPU = 0.12


def test_time_is_found_in_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [0.0]

    def wait_for_gpu() -> float:
        time.sleep(left.pop())
        left.append(0.0)
        return time.perf_counter()

    def slow_down(owner: Any, name: str, part: str) -> None:
        function = getattr(owner, name)

        def slow(*args: Any, **kwargs: Any) -> Any:
            time.sleep(HOST[part])
            result = function(*args, **kwargs)
            left[0] = GPU if part == 'attack' else 0.0
            return result

        owner.__dict__[name] = slow

    monkeypatch.setattr(parts, 'now', wait_for_gpu)
    loader = dict(batch_size=4, num_workers=0, persistent_workers=False)
    runner = build_digits_runner(tmp_path, 16, train_dataloader=loader)
    model: Any = runner.model
    hook = Hook()
    hook.after_train_iter = lambda *_, **__: None  # type: ignore[assignment]
    slow_down(model.data_preprocessor, 'forward', 'preprocessing')
    slow_down(model, 'attack_in_training', 'attack')
    slow_down(model.method, 'mix', 'mask and mix')
    slow_down(model, 'supervised_loss', 'loss and backward')
    slow_down(hook, 'after_train_iter', 'hooks')
    clock = parts.PartClock(iterations=2)
    runner.register_hook(hook)
    runner.register_hook(clock)
    with pytest.raises(Finished):
        runner.train()
    assert list(clock.times) == list(clock.waits) == list(parts.PARTS)
    assert all(len(times) == 2 for times in clock.times.values())
    found = {part: min(times) for part, times in clock.times.items()}
    assert all(found[part] >= HOST.get(part, 0) for part in found), found
    assert found['data'] < 0.2 and found['optimiser'] < 0.2
    assert found['attack'] >= HOST['attack'] + GPU
    waited = {part: min(times) for part, times in clock.waits.items()}
    assert waited.pop('attack') >= GPU
    assert max(waited.values()) < 0.01
