"""Runs of a few digits, by the project's own runtime."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner
from tiny import classifier_cfg

from m2at_mm.recipes import config_root


@functools.cache
def _digits_config() -> Config:
    return Config.fromfile(config_root() / 'm2at_resnet18-w16_digits.py')


def small_digits_config(
    work_dir: Path, num_images: int, batch_size: int, num_classes: int = 10
) -> Config:
    """A tiny network and attacks of one step on ``num_images`` digits."""
    cfg = copy.deepcopy(_digits_config())
    cfg.merge_from_dict(
        dict(
            work_dir=str(work_dir),
            experiment_name=work_dir.name,
            model=dict(
                classifier=dict(_delete_=True, **classifier_cfg(num_classes)),
                train_attack=dict(steps=1),
                eval_attacks=dict(pgd10=dict(steps=1)),
            ),
        )
    )
    for loader in ('train', 'val', 'test'):
        part = cfg[f'{loader}_dataloader']
        part.batch_size = batch_size
        part.dataset.update(indices=num_images, serialize_data=False)
    return cfg


def build_digits_runner(
    work_dir: Path,
    num_images: int,
    num_classes: int = 10,
    epochs: int = 1,
    **settings: Any,
) -> Runner:
    """Epochs of one iteration of ``num_images`` digits."""
    cfg = small_digits_config(work_dir, num_images, num_images, num_classes)
    cfg.train_cfg.max_epochs = epochs
    cfg.merge_from_dict(settings)
    return Runner.from_cfg(cfg)
