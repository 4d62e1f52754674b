"""What is said to follow against what followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from interrupted_runs import build_runner
from mmengine.hooks import Hook
from mmengine.runner import Runner

from m2at_mm.runner.loop_events import (
    checkpoint_follows,
    counts_epochs,
    refuse_epochs,
    validation_follows,
)


class Watch(Hook):
    """Notes what is announced and what happens, by iterations done."""

    def __init__(self) -> None:
        self.announced: dict[str, list[int]] = dict(val=[], checkpoint=[])
        self.validated: list[int] = []

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        done = runner.iter + 1
        if checkpoint_follows(runner):
            self.announced['checkpoint'].append(done)
        if counts_epochs(runner):
            if done % 3:
                return
            if validation_follows(runner, done // 3):
                self.announced['val'].append(done)
        elif validation_follows(runner, done):
            self.announced['val'].append(done)

    def before_val_epoch(self, runner: Runner) -> None:
        self.validated.append(runner.iter)


@pytest.mark.parametrize(
    ('loop', 'settings'),
    [
        ('iterations', dict(val_interval=4, val_begin=3)),
        ('iterations', dict(val_interval=2, dynamic_intervals=[(5, 1)])),
        ('epochs', dict(val_interval=2)),
    ],
)
def test_announced_is_what_happens(
    loop: str, settings: dict, tmp_path: Path
) -> None:
    watch = Watch()
    runner = build_runner(
        tmp_path,
        loop,
        randomness=dict(seed=0),
        train_cfg=settings,
        default_hooks=dict(
            checkpoint=dict(by_epoch=False, interval=4, save_best=None)
        ),
    )
    runner.register_hook(watch)
    runner.train()
    assert watch.announced['val'] == watch.validated != []
    assert watch.announced['checkpoint'] == [4, 8, 9]
    assert {path.stem for path in tmp_path.glob('iter_?.pth')} == {
        'iter_4',
        'iter_8',
        'iter_9',
    }


@pytest.mark.parametrize('loop', ['epochs', 'middle', 'iterations'])
def test_epochs_are_refused_where_there_are_none(
    loop: str, tmp_path: Path
) -> None:
    runner = build_runner(tmp_path, loop)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    assert counts_epochs(runner) == (loop != 'iterations')
    if loop != 'iterations':
        refuse_epochs(runner, 'anything')
        return
    with pytest.raises(ValueError, match=r'anything counts .*by_epoch=False'):
        refuse_epochs(runner, 'anything')
