"""Running statistics on two processes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn
from two_processes import on_two_processes

from m2at_mm.hooks import SyncBuffersHook


def _runner(rank: int, loop: type = EpochBasedTrainLoop) -> Any:
    """Norms whose statistics tell their process."""
    model, average = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    model.running_mean.fill_(1.0 + rank)
    average.running_var.fill_(3.0 + rank)
    ema = EMAHook()
    ema.ema_model = SimpleNamespace(module=average)
    saves = CheckpointHook(interval=4, by_epoch=False, save_last=False)
    return SimpleNamespace(
        model=model, hooks=[ema, saves], train_loop=loop.__new__(loop), iter=3
    )


def _statistics(runner: Any) -> tuple[float, float]:
    assert runner.model.num_batches_tracked == 0
    average = runner.hooks[0].ema_model.module
    return runner.model.running_mean[0].item(), average.running_var[0].item()


AFTER = {'after epoch': 'after_train_epoch', 'resumed': 'before_train'}


def _work(rank: int) -> Any:
    found: dict[str, Any] = {}
    for when, name in AFTER.items():
        runner, hook = _runner(rank), SyncBuffersHook()
        getattr(hook, name)(runner)
        before = _statistics(runner)
        hook.before_val_epoch(runner)  # right after either of them: nothing
        assert before == _statistics(runner)
        found[when] = before
    for when in ('checkpoint', 'between', 'validation'):
        runner, hook = _runner(rank, IterBasedTrainLoop), SyncBuffersHook()
        runner.iter += when == 'between'
        hook.before_train(runner)
        validates = when == 'validation'
        (hook.before_val_epoch if validates else hook.after_train_iter)(runner)
        found[when] = _statistics(runner)
    return found


def test_statistics_are_averaged_where_they_are_used(tmp_path: Path) -> None:
    for rank, found in enumerate(on_two_processes(_work, tmp_path)):
        own, common = (1.0 + rank, 3.0 + rank), (1.5, 3.5)
        shared = ('after epoch', 'checkpoint', 'validation')
        expected = dict.fromkeys(shared, common)
        assert found == expected | {'resumed': own, 'between': own}


def test_one_process_keeps_its_own() -> None:
    runner, hook = _runner(0), SyncBuffersHook()
    hook.after_train_epoch(runner)
    assert _statistics(runner) == (1.0, 3.0)
