"""Running statistics on two processes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn
from two_processes import on_two_processes

from m2at_mm.hooks import SyncBuffersHook


def _runner(rank: int) -> Any:
    """Norms whose statistics tell their process."""
    model, average = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    model.running_mean.fill_(1.0 + rank)
    average.running_var.fill_(3.0 + rank)
    ema = EMAHook()
    ema.ema_model = SimpleNamespace(module=average)
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    return SimpleNamespace(model=model, hooks=[ema], train_loop=loop)


def _work(rank: int) -> Any:
    found = {}
    for when in ('epoch', 'resumed'):
        runner, hook = _runner(rank), SyncBuffersHook()
        if when == 'epoch':
            hook.after_train_epoch(runner)
        else:
            hook.before_train(runner)
        before = runner.model.running_mean.clone()
        hook.before_val_epoch(runner)  # right after either of them: nothing
        assert torch.equal(runner.model.running_mean, before)
        average = runner.hooks[0].ema_model.module
        found[when] = (before[0].item(), average.running_var[0].item())
        assert runner.model.num_batches_tracked == 0
    return found


def _iterations(rank: int) -> Any:
    """Before a checkpoint by iteration, and before a validation."""
    found = {}
    for when in ('checkpoint', 'between', 'validation'):
        runner, hook = _runner(rank), SyncBuffersHook()
        runner.train_loop = IterBasedTrainLoop.__new__(IterBasedTrainLoop)
        runner.iter = 4 if when == 'between' else 3
        saves = CheckpointHook(interval=4, by_epoch=False, save_last=False)
        runner.hooks.append(saves)
        hook.before_train(runner)
        if when == 'validation':
            hook.before_val_epoch(runner)
        else:
            hook.after_train_iter(runner, 0)
        average = runner.hooks[0].ema_model.module
        found[when] = (
            runner.model.running_mean[0].item(),
            average.running_var[0].item(),
        )
    return found


def test_statistics_are_averaged_where_iterations_are_saved(
    tmp_path: Path,
) -> None:
    for rank, found in enumerate(on_two_processes(_iterations, tmp_path)):
        assert found['checkpoint'] == found['validation'] == (1.5, 3.5)
        assert found['between'] == (1.0 + rank, 3.0 + rank)


def test_statistics_are_averaged_after_an_epoch(tmp_path: Path) -> None:
    for rank, found in enumerate(on_two_processes(_work, tmp_path)):
        assert found['epoch'] == (1.5, 3.5)
        assert found['resumed'] == (1.0 + rank, 3.0 + rank)


def test_one_process_keeps_its_own() -> None:
    runner, hook = _runner(0), SyncBuffersHook()
    hook.after_train_epoch(runner)
    assert runner.model.running_mean[0] == 1.0
