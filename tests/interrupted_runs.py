"""Short trainings that are interrupted, resumed and compared."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from digits_runner import small_digits_config
from mmengine.hooks import Hook
from mmengine.runner import Runner

AUGMENTED = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='ColorJitter', brightness=0.4),
    dict(type='PackInputs'),
]
IMAGES, BATCH = 24, 8


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


def build_runner(
    work_dir: Path,
    loop: str,
    hooked: bool = True,
    whole_batches: bool = False,
    **settings: Any,
) -> Runner:
    """Epochs of three batches, or nine iterations.

    Augmented by the dataset, or by the preprocessor in whole batches.
    """
    cfg = small_digits_config(work_dir, IMAGES, BATCH)
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
        )
    )
    if not whole_batches:
        cfg.data_preprocessor.augment = None
        cfg.train_dataloader.dataset.update(
            pipeline=AUGMENTED, whole_batches=False
        )
    if loop == 'iterations':
        cfg.train_dataloader.sampler = dict(
            type='InfiniteSampler', shuffle=True
        )
    cfg.merge_from_dict(settings)
    if not hooked:
        del cfg.default_hooks.rng_state
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
