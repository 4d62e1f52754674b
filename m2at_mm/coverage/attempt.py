"""Tries one config: two training iterations, validation and evaluation."""

from __future__ import annotations

import copy
import math
import re
import resource
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from m2at_mm.cli import load_config
from m2at_mm.coverage.shrink import (
    fit_network,
    forget_checkpoints,
    input_sizes,
    narrow,
    use_folder,
)
from m2at_mm.evaluation import RobustnessTestLoop
from m2at_mm.recipes import apply_recipe, is_adversarial
from m2at_mm.recipes.support import why_refused
from m2at_mm.recipes.types import attack_configs

STATUSES = ('works', 'refused', 'upstream', 'fails')
#: A network of more parameters is tried with fewer blocks.
LARGEST_NETWORK = 60_000_000
#: Where that fails, up to this many are run as they are.
LARGEST_IN_FULL = 400_000_000
_ITERATIONS = 2
# Images of an evaluation. A network that has hardly been trained is right
# about one of ten, one of each class, and that one is attacked.
_EVALUATED = (10, 1)
_BATCH_SIZE = 4


@dataclass
class Outcome:
    """What became of a config.

    Attributes:
        config (str): Path inside mmpretrain's configs.
        model (str): Type of its model, empty if it cannot be loaded.
        status (str): ``'works'``; ``'refused'`` with a reason by the recipe;
            ``'upstream'``: mmpretrain itself fails on it in the same way; or
            ``'fails'``.
        note (str): The reason, or how the config was made small.
        size (int): Side of the input in pixels. Defaults to 0.
        parameters (int): Of the network as it was run. Defaults to 0.
        seconds (float): Time it took. Defaults to 0.
        memory (float): Largest resident memory in GiB. Defaults to 0.
    """

    config: str
    model: str
    status: str
    note: str = ''
    size: int = 0
    parameters: int = 0
    seconds: float = 0.0
    memory: float = 0.0

    @property
    def family(self) -> str:
        """The folder of the config, mmpretrain's name for a kind of model."""
        return self.config.split('/')[0]


def try_config(config: str, recipe: str, images: Path) -> Outcome:
    """Apply a recipe to a config, train for two iterations and evaluate.

    Args:
        config (str): Path inside mmpretrain's configs.
        recipe (str): Name of a recipe.
        images (Path): Folder with ``{train,test}/<class>/*``.

    Returns:
        Outcome: Never an exception: what goes wrong is in it.
    """
    start = time.perf_counter()
    try:
        outcome = _try(config, recipe, images)
    except Exception as error:
        outcome = Outcome(config, '', 'fails', _describe(error))
    outcome.seconds = round(time.perf_counter() - start, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 2**30 if sys.platform == 'darwin' else 2**20
    outcome.memory = round(peak / unit, 2)
    return outcome


def _try(config: str, recipe: str, images: Path) -> Outcome:
    try:
        cfg = load_config(f'mmpretrain::{config}')
    except Exception as error:
        note = f'the config cannot be loaded: {_describe(error)}'
        return Outcome(config, '', 'upstream', note)
    model = str((cfg.get('model') or {}).get('type', ''))
    reason = why_refused(cfg)
    if reason is not None:
        return Outcome(config, model, 'refused', reason)
    if not (cfg.get('train_dataloader') and cfg.get('optim_wrapper')):
        note = 'the config says nothing on training'
        return Outcome(config, model, 'refused', note)
    adversarial = apply_recipe(cfg, recipe)
    for size in input_sizes(cfg):
        outcome = _steps(config, _small(adversarial, images, size), size)
        if outcome.status == 'works':
            return outcome
    # Is it the recipe, or does the stock config do no better?
    if _steps(config, _small(cfg, images, size), size).note == outcome.note:
        outcome.status = 'upstream'
    return outcome


def _steps(config: str, cfg: Config, size: int) -> Outcome:
    model = str(_classifier(cfg).type)
    try:
        notes, parameters = _train(cfg)
    except Exception as error:
        return Outcome(config, model, 'fails', _describe(error), size)
    return Outcome(config, model, 'works', '; '.join(notes), size, parameters)


def _train(cfg: Config) -> tuple[list[str], int]:
    """Train and validate, narrowed if the network is large.

    Returns:
        tuple: How the config was changed, and the network's parameters.
    """
    parameters = _num_parameters(cfg)
    if parameters > LARGEST_NETWORK:
        narrowed = copy.deepcopy(cfg)
        done = narrow(_classifier(narrowed))
        if done is not None:
            try:
                notes = _run(narrowed)
                return [done, *notes], _num_parameters(narrowed)
            except Exception:
                # Its head may depend on the depth.
                if parameters > LARGEST_IN_FULL:
                    raise
    return _run(cfg), parameters


def _run(cfg: Config) -> list[str]:
    """Train and validate; an exception tells what is wrong."""
    cfg = copy.deepcopy(cfg)
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        # Runners of one name would share their visualizer.
        cfg.experiment_name = Path(folder).name
        runner = Runner.from_cfg(cfg)
        check = _Check()
        runner.register_hook(check, priority='LOWEST')
        runner.train()
        check.judge_training()
        if is_adversarial(cfg):
            _evaluate(runner, cfg)
    if cfg.get('val_dataloader') is None:
        return ['the config has no validation']
    check.judge_validation(is_adversarial(cfg))
    return []


def _evaluate(runner: Runner, cfg: Config) -> None:
    """What tools/test.py does, on few images and on a single one."""
    data = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if data is None:
        return
    data = copy.deepcopy(data)
    data.dataset.pop('indices', None)  # the first ones are of one class
    for number in _EVALUATED:
        loop = RobustnessTestLoop(
            runner,
            data,
            attacks=['clean', 'pgd20'],
            num_samples=number,
            out=f'{runner.work_dir}/results_{number}.json',
        )
        # Ten, however many the network has.
        loop.dataloader.dataset._metainfo.pop('classes', None)
        figures = loop.run()
        names = ('robust/clean', 'robust/pgd20', 'robust/worst')
        if not all(0 <= figures.get(name, -1) <= 100 for name in names):
            raise RuntimeError(f'the evaluation reported {figures}')


def _small(cfg: Config, images: Path, size: int) -> Config:
    cfg = copy.deepcopy(cfg)
    use_folder(cfg, images, size, _BATCH_SIZE)
    fit_network(_classifier(cfg), size)
    forget_checkpoints(cfg)
    if cfg.optim_wrapper.get('type') == 'AmpOptimWrapper':
        if not torch.cuda.is_available():
            for key in ('dtype', 'loss_scale', 'use_fsdp'):
                cfg.optim_wrapper.pop(key, None)
            cfg.optim_wrapper.type = 'OptimWrapper'
    for attack in attack_configs(cfg.model) if is_adversarial(cfg) else ():
        if 'steps' in attack:
            attack.steps = 1
    cfg.train_cfg.val_interval = 1
    if 'max_epochs' in cfg.train_cfg:
        # Two iterations an epoch: a warm-up in iterations must fit in.
        cfg.train_cfg.max_epochs *= 1000
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=-1)
    cfg.log_level = 'ERROR'
    return cfg


def _classifier(cfg: Config) -> Any:
    return cfg.model.classifier if is_adversarial(cfg) else cfg.model


def _num_parameters(cfg: Config) -> int:
    """Of the classifier, built without its initial weights."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        classifier = MODELS.build(copy.deepcopy(_classifier(cfg)))
    return sum(one.numel() for one in classifier.parameters())


class _Check(Hook):
    """Stops after two iterations and looks at what happened in them."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.metrics: dict[str, float] | None = None
        self.changed = False

    def before_train(self, runner: Runner) -> None:
        self._before = _weights(runner)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        self.losses.append((outputs or {})['loss'].item())

    def after_train_epoch(self, runner: Runner) -> None:
        self.changed = not torch.equal(self._before, _weights(runner))
        runner.train_loop.stop_training = True

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        self.metrics = metrics

    def judge_training(self) -> None:
        """Raise RuntimeError unless the weights were trained."""
        if len(self.losses) != _ITERATIONS:
            raise RuntimeError(f'{len(self.losses)} iterations were made')
        if not all(math.isfinite(loss) for loss in self.losses):
            raise RuntimeError(f'the losses are {self.losses}')
        if not self.changed:
            raise RuntimeError('no weight was changed')

    def judge_validation(self, adversarial: bool) -> None:
        """Raise RuntimeError unless there are figures."""
        if self.metrics is None:
            raise RuntimeError('there was no validation')
        if adversarial and 'robust/worst' not in self.metrics:
            raise RuntimeError(f'validation reported {self.metrics}')


def _weights(runner: Runner) -> torch.Tensor:
    """A sum of each trainable tensor: enough to see a change."""
    return torch.stack(
        [
            parameter.detach().double().sum()
            for parameter in runner.model.parameters()
            if parameter.requires_grad
        ]
    )


def _describe(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    text = str(error).strip().splitlines()
    place = f'{Path(frames[-1].filename).name}:{frames[-1].lineno}'
    # Without the folder of this installation.
    what = re.sub(r'/\S*/site-packages/', '', text[0] if text else '')
    return f'{type(error).__name__}: {what} ({place})'
