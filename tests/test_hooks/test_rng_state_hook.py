"""An interrupted and resumed run against one that ran through."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from interrupted_runs import (
    KillAt,
    KilledError,
    build_runner,
    end_of,
    same,
    scalars,
    seeded,
)

from m2at_mm.hooks import RNGStateHook


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
