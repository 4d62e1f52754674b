"""Runs of a few digits, by the project's own runtime."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from tiny import classifier_cfg
from torch import Tensor, nn

from m2at_mm.recipes import config_root


class QuickConfig(Config):
    """A config that MMEngine, which formats it seven times, formats fast."""

    @property
    def pretty_text(self) -> str:
        return ''.join(f'{key} = {self[key]!r}\n' for key in self)


@functools.cache
def _digits_config() -> Config:
    cfg = Config.fromfile(config_root() / 'm2at_resnet18-w16_digits.py')
    object.__setattr__(cfg, '__class__', QuickConfig)
    return cfg


@MODELS.register_module()
class TwoConvolutions(nn.Sequential):
    """The least network with running statistics."""

    def __init__(self) -> None:
        super().__init__()
        for given, out in ((3, 4), (4, 8)):
            self.append(nn.Conv2d(given, out, 3, stride=2, bias=False))
            self.extend((nn.BatchNorm2d(out), nn.ReLU()))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (super().forward(images),)


def quick_cfg(num_classes: int = 10) -> dict:
    """A classifier for tests in which it may be any."""
    cfg = classifier_cfg(num_classes, base_channels=1)
    return dict(cfg, backbone=dict(type='TwoConvolutions'))


def small_digits_config(
    work_dir: Path,
    num_images: int,
    batch_size: int,
    num_classes: int = 10,
    network: Callable[[int], dict] = classifier_cfg,
) -> Config:
    """A tiny network and attacks of one step on ``num_images`` digits."""
    cfg = copy.deepcopy(_digits_config())
    cfg.work_dir = str(work_dir)
    # Runners of one name and second would share their visualizer.
    cfg.experiment_name = f'{work_dir.parent.name}-{work_dir.name}'
    cfg.model.classifier = network(num_classes)
    cfg.model.train_attack.steps = cfg.model.eval_attacks.pgd10.steps = 1
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
    network: Callable[[int], dict] = classifier_cfg,
    **settings: Any,
) -> Runner:
    """Epochs of one iteration of ``num_images`` digits."""
    sizes = num_images, num_images, num_classes
    cfg = small_digits_config(work_dir, *sizes, network)
    cfg.train_cfg.max_epochs = epochs
    cfg.merge_from_dict(settings)
    return Runner.from_cfg(cfg)
