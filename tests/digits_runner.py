"""Runs of a few digits by the project's own runtime, also interrupted ones."""

import copy
import functools
import operator
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from tiny import classifier_cfg
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

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


AUGMENTED = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='ColorJitter', brightness=0.4),
    dict(type='PackInputs'),
]
IMAGES, BATCH = 24, 8
EPOCHS = dict(max_epochs=3, val_interval=1)
LOOPS: dict[str, dict[str, Any]] = dict(
    epochs=dict(EPOCHS, by_epoch=True),
    middle=dict(EPOCHS, type='m2at_mm.ResumableEpochTrainLoop'),
    iterations=dict(by_epoch=False, max_iters=9, val_interval=3),
)
PARTS = ('state_dict', 'ema_state_dict', 'optimizer', 'rng_state')


class KilledError(Exception):
    """The run is interrupted here."""


class KillAt(Hook):
    """Interrupts a run before an iteration, or in a validation."""

    def __init__(self, iteration: int, in_validation: bool = False) -> None:
        self.at = (iteration, in_validation)

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        if (runner.iter, False) == self.at:
            self.kill()

    def after_val_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        if (runner.iter, True) == self.at:
            self.kill()

    def kill(self) -> None:
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
    cfg = small_digits_config(work_dir, IMAGES, BATCH, network=quick_cfg)
    cfg.train_cfg = dict(LOOPS[loop])
    hooks, by_epoch = cfg.default_hooks, loop == 'epochs'
    hooks.checkpoint.update(max_keep_ckpts=-1, published_keys=None)
    hooks.checkpoint.update(by_epoch=by_epoch, interval=1 if by_epoch else 2)
    hooks.rng_state = dict(type='m2at_mm.RNGStateHook')
    hooks.ema, hooks.logger.interval = dict(type='EMAHook'), 1
    cfg.randomness.seed = None
    schedule = dict(type='CosineAnnealingLR', T_max=9, by_epoch=False)
    cfg.param_scheduler = schedule
    if not whole_batches:
        cfg.data_preprocessor.augment = None
        data = dict(pipeline=AUGMENTED, whole_batches=False)
        cfg.train_dataloader.dataset.update(data)
    if loop == 'iterations':
        endless = dict(type='InfiniteSampler', shuffle=True)
        cfg.train_dataloader.sampler = endless
    cfg.merge_from_dict(settings)
    if not hooked:
        del cfg.default_hooks.rng_state
    return Runner.from_cfg(cfg)


def resume(runner: Runner) -> Runner:
    """Train from the last checkpoint on, as a new process would."""
    seeded(1)
    runner._resume = True
    runner.train()
    return runner


def killed_and_resumed(build: Callable[[], Runner], kill: KillAt) -> Runner:
    """The second of two runs that ``build`` makes."""
    seeded(0)
    runner = build()
    runner.register_hook(kill)
    with pytest.raises(KilledError):
        runner.train()
    seeded(1)
    return resume(build())


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
    (parts, form), (others, other_form) = map(tree_flatten, (first, second))
    assert form == other_form, where
    for one, other in zip(parts, others):
        assert type(one) is type(other), (where, one)
        equal = torch.equal if isinstance(one, Tensor) else operator.eq
        assert equal(one, other), (where, one)


def same_ends(first: Path, second: Path, *parts: str) -> None:
    """Two work dirs whose last checkpoints are equal, and all their names."""
    ends = [end_of(folder) for folder in (first, second)]
    for part in parts:
        same(*(end[part] for end in ends), part)
    names, others = (one.glob('*.pth') for one in (first, second))
    assert {path.name for path in names} == {path.name for path in others}


def resumes(build: Callable[[str], Runner], kill: KillAt) -> Runner:
    """A whole run, with which an interrupted one agrees bit for bit."""
    seeded(0)
    whole = build('whole')
    whole.train()
    resumed = killed_and_resumed(lambda: build('parts'), kill)
    assert resumed.iter == whole.iter == 9
    folders = [Path(run.work_dir) for run in (whole, resumed)]
    parts = end_of(folders[0]).keys() - {'meta', 'message_hub'}
    same_ends(*folders, *parts)
    for name in ('train/loss', 'train/lr'):
        same(*(scalars(run, name) for run in (whole, resumed)))
    return whole


def scalars(runner: Runner, name: str) -> list[float]:
    history, _ = runner.message_hub.get_scalar(name).data
    return history.tolist()


def log_of(work_dir: Path) -> str:
    """What the last run in a folder logged."""
    logs = work_dir.glob('*/*.log')
    return max(logs, key=lambda path: path.stat().st_mtime).read_text('utf-8')
