"""An interrupted and resumed run against one that ran through."""

from __future__ import annotations

import copy
import functools
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tiny import classifier_cfg

from m2at_mm.hooks import RNGStateHook
from m2at_mm.recipes import config_root

AUGMENTED = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='ColorJitter', brightness=0.4),
    dict(type='PackInputs'),
]
IMAGES, BATCH = 24, 8


@pytest.fixture(scope='module', autouse=True)
def plain_config_text() -> Iterator[None]:
    """MMEngine formats the config seven times, half a second each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, 'pretty_text', property(repr))
        yield


@functools.cache
def digits_config() -> Config:
    return Config.fromfile(config_root() / 'm2at_resnet18-w16_digits.py')


class KilledError(Exception):
    """The run is interrupted here."""


class KillAt(Hook):
    """Interrupts a run before an iteration, or in a validation."""

    def __init__(self, iteration: int, in_validation: bool = False) -> None:
        self.iteration = iteration
        self.in_validation = in_validation

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        if not self.in_validation and runner.iter == self.iteration:
            raise KilledError

    def after_val_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        if self.in_validation and runner.iter == self.iteration:
            raise KilledError


def build_runner(work_dir: Path, loop: str, **settings: Any) -> Runner:
    """Epochs of three batches, or nine iterations."""
    cfg = copy.deepcopy(digits_config())
    by_epoch = loop == 'epochs'
    cfg.train_cfg = dict(
        epochs=dict(by_epoch=True, max_epochs=3, val_interval=1),
        middle=dict(
            type='m2at_mm.ResumableEpochTrainLoop',
            max_epochs=3,
            val_interval=1,
        ),
        iterations=dict(by_epoch=False, max_iters=9, val_interval=3),
    )[loop]
    cfg.merge_from_dict(
        dict(
            work_dir=str(work_dir),
            experiment_name=work_dir.name,
            randomness=dict(seed=None),
            default_hooks=dict(
                checkpoint=dict(
                    by_epoch=by_epoch,
                    interval=1 if by_epoch else 2,
                    max_keep_ckpts=-1,
                ),
                rng_state=dict(type='m2at_mm.RNGStateHook'),
                ema=dict(type='EMAHook'),
                logger=dict(interval=1),
            ),
            param_scheduler=dict(
                _delete_=True,
                type='CosineAnnealingLR',
                T_max=9,
                by_epoch=False,
            ),
            model=dict(
                classifier=dict(_delete_=True, **classifier_cfg()),
                train_attack=dict(steps=1),
                eval_attacks=dict(pgd10=dict(steps=1)),
            ),
        )
    )
    for name in ('train', 'val', 'test'):
        loader = cfg[f'{name}_dataloader']
        loader.batch_size = BATCH
        loader.dataset.update(indices=IMAGES, serialize_data=False)
    cfg.train_dataloader.dataset.pipeline = AUGMENTED
    if loop == 'iterations':
        cfg.train_dataloader.sampler = dict(
            type='InfiniteSampler', shuffle=True
        )
    cfg.merge_from_dict(settings)
    return Runner.from_cfg(cfg)


def seeded(seed: int) -> None:
    """As a new process would be."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def end_of(work_dir: Path) -> dict[str, Any]:
    """The last checkpoint."""
    path = (work_dir / 'last_checkpoint').read_text().strip()
    return torch.load(path, weights_only=True)


def same(first: Any, second: Any, where: str = '') -> None:
    """Equal bit for bit, down to every tensor."""
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            same(first[key], second[key], f'{where}.{key}')
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for number, pair in enumerate(zip(first, second)):
            same(*pair, f'{where}[{number}]')
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    else:
        assert first == second, where


def scalars(runner: Runner, name: str) -> list[float]:
    history, _ = runner.message_hub.get_scalar(name).data
    return history.tolist()


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize(
    ('loop', 'killed_at', 'in_validation'),
    [
        ('epochs', 5, False),
        ('epochs', 6, False),
        ('epochs', 6, True),
        ('middle', 5, False),
        ('middle', 6, True),
        ('middle', 7, False),
        ('iterations', 5, False),
        ('iterations', 6, True),
    ],
)
def test_resumed_is_uninterrupted(
    loop: str,
    killed_at: int,
    in_validation: bool,
    workers: int,
    tmp_path: Path,
) -> None:
    settings = dict(
        train_dataloader=dict(
            num_workers=workers, persistent_workers=bool(workers)
        )
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
    assert {path.name for path in whole.glob('*.pth')} == {
        path.name for path in parts.glob('*.pth')
    }


def test_without_the_hook_it_is_another_run(tmp_path: Path) -> None:
    """The comparison above can fail."""
    ends = []
    for name in ('whole', 'parts'):
        seeded(0)
        runner = build_runner(
            tmp_path / name,
            'epochs',
            randomness=dict(seed=0),
            default_hooks=dict(rng_state=None),
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
                default_hooks=dict(rng_state=None),
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
    build_runner(
        tmp_path, 'epochs', default_hooks=dict(rng_state=None)
    ).train()
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
