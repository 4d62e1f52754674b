"""An interrupted and resumed run against one that ran through."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted_runs import (
    KillAt,
    KilledError,
    build_runner,
    end_of,
    same,
    scalars,
    seeded,
)
from mmengine.hooks import Hook
from mmengine.runner import Runner

from m2at_mm.hooks import CollapseGuardHook, RNGStateHook


@pytest.mark.parametrize(
    ('loop', 'killed_at', 'in_validation', 'workers', 'whole_batches'),
    [
        ('epochs', 5, False, 0, False),
        ('epochs', 6, True, 2, True),
        ('middle', 5, False, 2, False),
        ('middle', 7, False, 0, True),
        ('middle', 5, False, 2, True),
        ('iterations', 5, False, 2, False),
        ('iterations', 6, True, 0, True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ('epochs', 6, False, 2, False),
                ('epochs', 6, True, 0, False),
                ('epochs', 6, True, 2, False),
                ('epochs', 5, False, 0, True),
                ('middle', 5, False, 0, False),
                ('middle', 6, True, 0, False),
                ('middle', 6, True, 2, False),
                ('middle', 6, True, 2, True),
                ('middle', 7, False, 2, False),
                ('middle', 7, False, 0, False),
                ('iterations', 5, False, 0, False),
                ('iterations', 5, False, 2, True),
                ('iterations', 6, True, 2, False),
                ('iterations', 6, True, 0, False),
            ]
        ),
    ],
)
def test_resumed_is_uninterrupted(
    loop: str,
    killed_at: int,
    in_validation: bool,
    workers: int,
    whole_batches: bool,
    tmp_path: Path,
) -> None:
    settings: dict = dict(
        whole_batches=whole_batches,
        train_dataloader=dict(
            num_workers=workers, persistent_workers=bool(workers)
        ),
    )
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    seeded(0)
    first = build_runner(whole, loop, **settings)
    first.train()

    seeded(0)
    # The seed that the first run drew, which nobody wrote down.
    interrupted = build_runner(
        parts, loop, randomness=dict(seed=first.seed), **settings
    )
    interrupted.register_hook(KillAt(killed_at, in_validation))
    with pytest.raises(KilledError):
        interrupted.train()
    seeded(1)
    resumed = build_runner(parts, loop, experiment_name='resumed', **settings)
    resumed._resume = True
    resumed.train()

    assert resumed.seed == first.seed
    ends = [end_of(whole), end_of(parts)]
    for part in ('state_dict', 'ema_state_dict', 'optimizer', 'rng_state'):
        same(*(end[part] for end in ends), part)
    same(*(end['param_schedulers'] for end in ends), 'param_schedulers')
    for name in ('train/loss', 'val/robust/clean', 'val/robust/pgd10'):
        same(scalars(resumed, name), scalars(first, name), name)
    # A published copy's name ends with a hash, also of times and logs.
    names = [
        {path.name.split('-')[0] for path in work_dir.glob('*.pth')}
        for work_dir in (whole, parts)
    ]
    assert names[0] == names[1]


EARLY = dict(
    type='EarlyStoppingHook',
    monitor='robust/pgd10',
    rule='greater',
    patience=2,
    min_delta=100.0,
)
SWITCHED = [
    dict(type='RandomCrop', crop_size=32, padding=2),
    dict(type='PackInputs'),
]
GUARD = dict(
    type='m2at_mm.CollapseGuardHook', action='rollback', num_images=8, steps=1
)
BY_ITERATION = dict(by_epoch=False, interval=2)


@pytest.mark.parametrize(
    ('loop', 'killed_at', 'settings'),
    [
        (
            'epochs',
            7,
            dict(custom_hooks=[EARLY], train_cfg=dict(max_epochs=5)),
        ),
        ('iterations', 7, dict(custom_hooks=[EARLY])),
        (
            'epochs',
            7,
            dict(
                param_scheduler=dict(
                    _delete_=True,
                    type='ReduceOnPlateauLR',
                    monitor='robust/pgd10',
                    rule='greater',
                    threshold_rule='abs',
                    threshold=100.0,
                    patience=0,
                )
            ),
        ),
        (
            'epochs',
            5,
            dict(
                default_hooks=dict(
                    ema=dict(
                        type='EMAHook',
                        ema_type='StochasticWeightAverage',
                        interval=2,
                    )
                )
            ),
        ),
        (
            'middle',
            7,
            dict(
                custom_hooks=[
                    dict(
                        type='mmpretrain.SwitchRecipeHook',
                        schedule=[
                            dict(action_epoch=2, train_pipeline=SWITCHED)
                        ],
                    )
                ]
            ),
        ),
        ('epochs', 5, dict(optim_wrapper=dict(accumulative_counts=2))),
        ('middle', 5, dict(optim_wrapper=dict(accumulative_counts=4))),
        ('epochs', 5, dict(custom_hooks=[GUARD])),
        ('iterations', 5, dict(custom_hooks=[GUARD | BY_ITERATION])),
    ],
    ids=[
        'early stopping',
        'early stopping by iteration',
        'plateau',
        'average',
        'switched pipeline',
        'accumulated gradients',
        'accumulated over epochs',
        'guard',
        'guard by iteration',
    ],
)
def test_resumed_with_what_keeps_a_state(
    loop: str,
    killed_at: int,
    settings: dict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def judge(
        guard: CollapseGuardHook, figures: dict, runner: Runner
    ) -> str | None:
        return 'pretended' if runner.iter + (not guard.by_epoch) == 6 else None

    monkeypatch.setattr(CollapseGuardHook, '_judge', judge)

    def build() -> Runner:
        own = copy.deepcopy(settings)  # merging takes '_delete_' out
        folder = tmp_path / name
        return build_runner(folder, loop, randomness=dict(seed=0), **own)

    runners = []
    for name in ('whole', 'parts'):
        seeded(0)
        runner = build()
        if name == 'parts':
            runner.register_hook(KillAt(killed_at))
            with pytest.raises(KilledError):
                runner.train()
            seeded(1)
            runner = build()
            runner._resume = True
        runner.train()
        runners.append(runner)
    whole, resumed = runners
    assert resumed.iter == whole.iter
    assert whole.iter == 9  # early stopping ends longer ones there
    ends = [end_of(tmp_path / name) for name in ('whole', 'parts')]
    for part in ends[0]:
        if part not in ('meta', 'message_hub'):
            same(*(end[part] for end in ends), part)
    same(scalars(resumed, 'train/loss'), scalars(whole, 'train/loss'))


def test_the_best_checkpoint_knows_that_it_is_the_best(tmp_path: Path) -> None:
    settings = dict(custom_hooks=[EARLY], randomness=dict(seed=0))
    runner = build_runner(tmp_path, 'epochs', **settings)
    runner.train()
    (path,) = tmp_path.glob('best_*_?.pth')
    best = torch.load(path, weights_only=True)
    epoch = best['meta']['epoch']
    state = best['hook_states']['EarlyStoppingHook']
    assert epoch == 1 or state['wait_count'] == epoch - 1
    # Of the first validation, as no other is better by 100 points.
    assert state['best_score'] == scalars(runner, 'val/robust/pgd10')[0]


class Counts(Hook):
    """A hook of another package that tells its state."""

    def __init__(self) -> None:
        self.seen = 0

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        self.seen += 1

    def state_dict(self) -> dict[str, int]:
        return dict(seen=self.seen)

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seen = state['seen']


class Forgets(Hook):
    """A hook of another package that does not."""

    def __init__(self) -> None:
        self.seen = 0


def test_hooks_of_others(tmp_path: Path) -> None:
    for epochs in (1, 2):
        runner = build_runner(
            tmp_path,
            'epochs',
            randomness=dict(seed=0),
            train_cfg=dict(max_epochs=epochs),
        )
        counts = [Counts(), Counts()]
        for hook in (*counts, Forgets()):
            runner.register_hook(hook)
        counts[1].seen = 10 * epochs
        runner._resume = epochs == 2
        runner.train()
    assert [hook.seen for hook in counts] == [6, 16]
    log = max(tmp_path.glob('*/*.log')).read_text()
    assert 'begins anew with what Forgets may have noted' in log


def test_without_the_hook_it_is_another_run(tmp_path: Path) -> None:
    """The comparison above can fail."""
    ends = []
    for name in ('whole', 'parts'):
        seeded(0)
        runner = build_runner(
            tmp_path / name,
            'epochs',
            randomness=dict(seed=0),
            hooked=False,
        )
        if name == 'parts':
            runner.register_hook(KillAt(6))
            with pytest.raises(KilledError):
                runner.train()
            seeded(1)
            runner = build_runner(
                tmp_path / name,
                'epochs',
                randomness=dict(seed=0),
                experiment_name='again',
                hooked=False,
            )
            runner._resume = True
        runner.train()
        ends.append(end_of(tmp_path / name)['state_dict'])
    with pytest.raises(AssertionError):
        same(*ends)


def test_validation_leaves_training_alone(tmp_path: Path) -> None:
    ends = []
    for interval in (1, 3):
        seeded(0)
        work_dir = tmp_path / str(interval)
        runner = build_runner(
            work_dir,
            'epochs',
            randomness=dict(seed=0),
            train_cfg=dict(val_interval=interval),
        )
        runner.train()
        ends.append(end_of(work_dir))
    same(ends[0]['state_dict'], ends[1]['state_dict'])


def test_checkpoint_without_streams(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    build_runner(tmp_path, 'epochs', hooked=False).train()
    resumed = build_runner(
        tmp_path, 'epochs', experiment_name='r', train_cfg=dict(max_epochs=4)
    )
    resumed._resume = True
    resumed.train()
    assert resumed.epoch == 4
    (log, *_) = sorted(
        tmp_path.glob('*/*.log'), key=lambda path: path.stat().st_mtime
    )[::-1]
    assert 'holds no random streams' in log.read_text()


def test_another_number_of_processes_is_said(
    tmp_path: Path,
) -> None:
    hook = RNGStateHook()
    runner = build_runner(tmp_path, 'epochs')
    runner._resume = True
    state = dict(ranks=[{}, {}], at_epoch_end=True)
    hook.after_load_checkpoint(runner, dict(rng_state=state))
    assert hook._loaded is None
    (log,) = tmp_path.glob('*/*.log')
    assert 'is from 2 processes, this run has 1' in log.read_text()
    shutil.rmtree(tmp_path)
