"""Tries one config: two training iterations, validation and evaluation."""

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

from config_coverage import shrink
from m2at_mm.cli import load_config
from m2at_mm.evaluation import RobustnessTestLoop
from m2at_mm.recipes import apply_recipe, is_adversarial
from m2at_mm.recipes.apply import why_refused
from m2at_mm.recipes.fit import attack_configs

#: What can become of a config, and the meaning of each.
STATUSES = {
    'works': 'two training iterations, a robust validation, and evaluations '
    'under PGD-20 of ten images and of a single one',
    'refused': 'refused at once, with the reason',
    'upstream': 'mmpretrain itself fails on the stock config in the same way',
    'fails': 'to be mended here',
}
#: A network of more parameters is tried with fewer blocks.
LARGEST_NETWORK = 60_000_000
#: Where that fails, up to this many are run as they are.
LARGEST_IN_FULL = 400_000_000
_ITERATIONS = 2
# Images of an evaluation. A network that has hardly been trained is right
# about one of ten, one of each class, and that one is attacked.
_EVALUATED = (10, 1)
_REPORTED = ('clean', 'pgd20', 'worst')
_BATCH_SIZE = 4


@dataclass
class Outcome:
    """What became of a config, given by its path inside mmpretrain's.

    Attributes:
        model (str): Type of its model, empty if it cannot be loaded.
        status (str): One of :data:`STATUSES`.
        note (str): The reason, or how the config was made small.
        size (int): Side of the input in pixels.
        parameters (int): Of the network as it was run.
        memory (float): Largest resident memory in GiB.
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

    The images are in ``{train,test}/<class>/*``. What goes wrong is in the
    outcome, never raised.
    """
    start = time.perf_counter()
    try:
        outcome = _try(config, recipe, images)
    except Exception as error:
        outcome = Outcome(config, '', 'fails', _describe(error))
    outcome.seconds = round(time.perf_counter() - start, 1)
    unit = 2**30 if sys.platform == 'darwin' else 2**20
    usage = resource.getrusage(resource.RUSAGE_SELF)
    outcome.memory = round(usage.ru_maxrss / unit, 2)
    return outcome


def _try(config: str, recipe: str, images: Path) -> Outcome:
    try:
        cfg = load_config(f'mmpretrain::{config}')
    except Exception as error:
        note = f'the config cannot be loaded: {_describe(error)}'
        return Outcome(config, '', 'upstream', note)
    model = str((cfg.get('model') or {}).get('type', ''))
    reason = why_refused(cfg)
    if not (cfg.get('train_dataloader') and cfg.get('optim_wrapper')):
        reason = reason or 'the config says nothing on training'
    if reason is not None:
        return Outcome(config, model, 'refused', reason)
    adversarial = apply_recipe(cfg, recipe)
    outcome = Outcome(config, model, 'fails')
    for outcome.size in shrink.input_sizes(cfg):
        small = _small(adversarial, images, outcome.size)
        try:
            outcome.note, outcome.parameters = _train(small)
            outcome.status = 'works'
            return outcome
        except Exception as error:
            outcome.note = _describe(error)
    # Is it the recipe, or does the stock config do no better?
    try:
        _train(_small(cfg, images, outcome.size))
    except Exception as error:
        if _describe(error) == outcome.note:
            outcome.status = 'upstream'
    return outcome


def _train(cfg: Config) -> tuple[str, int]:
    """Train and validate, narrowed if the network is large.

    How the config was changed, and the network's parameters.
    """
    parameters, small = _num_parameters(cfg), copy.deepcopy(cfg)
    large = parameters > LARGEST_NETWORK
    if large and (done := shrink.narrow(_classifier(small))):
        try:
            note = '; '.join(filter(None, [done, _run(small)]))
            return note, _num_parameters(small)
        except Exception:
            # Its head may depend on the depth.
            if parameters > LARGEST_IN_FULL:
                raise
    return _run(cfg), parameters


def _run(cfg: Config) -> str:
    """Train, validate and evaluate, and tell what was left out.

    Raises:
        RuntimeError: The run did not do what it should.
    """
    cfg = copy.deepcopy(cfg)
    adversarial = is_adversarial(cfg)
    validates = cfg.get('val_dataloader') is not None
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        # Runners of one name would share their visualizer.
        cfg.experiment_name = Path(folder).name
        runner = Runner.from_cfg(cfg)
        check = _Check()
        runner.register_hook(check, priority='LOWEST')
        runner.train()
        if problem := check.problem(validates, adversarial):
            raise RuntimeError(problem)
        if adversarial:
            _evaluate(runner, cfg)
    return '' if validates else 'the config has no validation'


def _evaluate(runner: Runner, cfg: Config) -> None:
    """What tools/test.py does, on few images and on a single one."""
    data = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if data is None:
        return
    data = copy.deepcopy(data)
    data.dataset.pop('indices', None)  # the first ones are of one class
    for number in _EVALUATED:
        asked: Any = dict(attacks=['clean', 'pgd20'], num_samples=number)
        out = f'{runner.work_dir}/results_{number}.json'
        loop = RobustnessTestLoop(runner, data, **asked, out=out)
        # Ten, however many the network has.
        loop.dataloader.dataset._metainfo.pop('classes', None)
        figures = loop.run()
        values = [figures.get(f'robust/{name}', -1) for name in _REPORTED]
        if not all(0 <= value <= 100 for value in values):
            raise RuntimeError(f'the evaluation reported {figures}')


def _small(cfg: Config, images: Path, size: int) -> Config:
    cfg = copy.deepcopy(cfg)
    shrink.use_folder(cfg, images, size, _BATCH_SIZE)
    shrink.fit_network(_classifier(cfg), size)
    shrink.forget_checkpoints(cfg)
    wrapper, has_gpu = cfg.optim_wrapper, torch.cuda.is_available()
    if wrapper.get('type') == 'AmpOptimWrapper' and not has_gpu:
        wrapper.type = 'OptimWrapper'
        for key in ('dtype', 'loss_scale', 'use_fsdp'):
            wrapper.pop(key, None)
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

    def after_train_iter(self, *_: Any, outputs: Any, **__: Any) -> None:
        self.losses.append(outputs['loss'].item())

    def after_train_epoch(self, runner: Runner) -> None:
        self.changed = self._before != _weights(runner)
        runner.train_loop.stop_training = True

    def after_val_epoch(self, *_: Any, metrics: Any, **__: Any) -> None:
        self.metrics = metrics

    def problem(self, validates: bool, adversarial: bool) -> str | None:
        """What of training and validation did not take place."""
        if len(self.losses) != _ITERATIONS:
            return f'{len(self.losses)} iterations were made'
        if not all(math.isfinite(loss) for loss in self.losses):
            return f'the losses are {self.losses}'
        if not self.changed:
            return 'no weight was changed'
        if not validates:
            return None
        if self.metrics is None:
            return 'there was no validation'
        if adversarial and 'robust/worst' not in self.metrics:
            return f'validation reported {self.metrics}'
        return None


def _weights(runner: Runner) -> list[float]:
    """A sum of each trainable tensor: enough to see a change."""
    weights = (p for p in runner.model.parameters() if p.requires_grad)
    return [one.detach().double().sum().item() for one in weights]


def _describe(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    text = str(error).strip().splitlines()
    place = f'{Path(frames[-1].filename).name}:{frames[-1].lineno}'
    # Without the folder of this installation.
    what = re.sub(r'/\S*/site-packages/', '', text[0] if text else '')
    return f'{type(error).__name__}: {what} ({place})'
