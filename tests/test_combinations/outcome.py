"""Runs a combination, and compares what it shows with other counts."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from interrupted_runs import KillAt, KilledError
from mmengine import dist
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner, set_random_seed
from quick_autoattack import quick_autoattack

from m2at_mm import registry
from m2at_mm.model_wrappers import bare_model

from .cases import Case
from .training import Seen, build_config

_REGISTRIES = ('MODELS', 'DATASETS', 'TASK_UTILS', 'HOOKS', 'METRICS')


def _as_python(part: Any, imports: set[str]) -> str:
    """A part of a pure-Python config, where types are classes."""
    if isinstance(part, dict):
        items = []
        for key, value in part.items():
            text = _as_python(value, imports)
            if key == 'type':
                text = _class_of(value, imports) or text
            items.append(f'{key!r}: {text}')
        return f'{{{", ".join(items)}}}'
    if isinstance(part, (list, tuple)):
        return f'[{", ".join(_as_python(one, imports) for one in part)}]'
    return repr(part)


def _class_of(name: str, imports: set[str]) -> str | None:
    for one in _REGISTRIES:
        found = getattr(registry, one).get(name)
        if isinstance(found, type):
            imports.add(f'from {found.__module__} import {found.__name__}')
            return found.__name__
    return None


def _pure_python(cfg: Config, folder: Path) -> Config:
    """The same config, written as MMEngine's new style has it."""
    imports: set[str] = set()
    lines = [f'{key} = {_as_python(cfg[key], imports)}' for key in cfg]
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_name(f'{folder.name}_rank{dist.get_rank()}.py')
    file.write_text('\n'.join([*sorted(imports), *lines]) + '\n')
    return Config.fromfile(file, lazy_import=True)


def build_runner(case: Case, work_dir: Path) -> Runner:
    """The Runner of a combination, in its style."""
    cfg = build_config(case, work_dir)
    if case['style'] == 'classes':
        cfg = _pure_python(cfg, work_dir)
    if case['style'] != 'objects':
        return Runner.from_cfg(cfg)
    given = {key: cfg[key] for key in cfg}
    given['cfg'] = dict(model_wrapper_cfg=given.pop('model_wrapper_cfg'))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        set_random_seed(0)
        given['model'] = registry.MODELS.build(given['model'])
        for part in ('train_dataloader', 'val_dataloader'):
            given[part] = Runner.build_dataloader(given[part], seed=0)
    return Runner(**given)


def _train(case: Case, work_dir: Path, hook: Any = None) -> Runner:
    """Train with a hook more, or go on with an interrupted training."""
    runner = build_runner(case, work_dir)
    if hook is None:
        runner._resume = True
    else:
        runner.register_hook(hook)
    runner.train()
    return runner


@quick_autoattack()
def run(case: Case, folder: Path) -> list[str]:
    """Train, and list what is not as it should be."""
    seen = Seen()
    runner = _train(case, folder / 'whole', seen)
    finite = seen.losses and all(map(math.isfinite, seen.losses))
    problems = [] if finite else [f'losses {seen.losses}']
    problems += _images(case, runner, seen) + _accuracy(runner)
    if case['run'] == 'killed':
        problems += _killed(case, folder, runner)
    return problems


def _images(case: Case, runner: Runner, seen: Seen) -> list[str]:
    """Each image once per epoch, over all ranks."""
    dataset = runner.train_dataloader.dataset
    count = len(dataset)
    samples = [dataset[index]['data_samples'] for index in range(count)]
    expected = Counter(int(one.get('sample_idx')) for one in samples)
    ranks = dist.all_gather_object(seen.images)
    # Samplers deal the images out in turn.
    turns = [image for turn in zip(*ranks) for image in turn]
    size = -(-count // len(ranks)) * len(ranks)
    starts = range(0, len(turns) - size + 1, size)
    epochs = [turns[start : start + size] for start in starts]
    if case['sampler'] == 'infinite':
        epochs = [turns[:count]]
    problems = []
    for number, epoch in enumerate(epochs):
        found = Counter(epoch)
        # The last ones may be dealt out twice, for ranks of equal length.
        extra = len(epoch) - count
        if expected - found or sum((found - expected).values()) > extra:
            problems.append(f'epoch {number} saw {found}, not {expected}')
    return problems if epochs else ['no epoch was complete']


def _validated(runner: Runner) -> Any:
    """What was validated last: the averaged network if there is one."""
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            return hook.ema_model.module
    return bare_model(runner.model)


def _accuracy(runner: Runner) -> list[str]:
    """The last logged clean accuracy against one counted image by image."""
    model = _validated(runner).eval()
    dataset = runner.val_dataloader.dataset
    right = 0
    for index in range(len(dataset)):
        sample = dataset[index]
        # Two of the same: some networks take no single image.
        inputs = torch.stack([sample['inputs']] * 2).float() / 255
        with torch.no_grad():
            logits = model(inputs)
        right += int(logits[0].argmax() == sample['data_samples'].gt_label)
    counted = 100 * right / len(dataset)
    logged = runner.message_hub.get_scalar('val/robust/clean').current()
    if abs(counted - logged) < 1e-3:
        return []
    return [f'clean accuracy {logged} was logged, {counted} counted']


def _killed(case: Case, folder: Path, whole: Runner) -> list[str]:
    """Killed after the first checkpoint and resumed: the same weights."""
    first = whole.max_iters // 2 + 1
    try:
        _train(case, folder / 'killed', KillAt(first))
    except KilledError:
        pass
    else:
        return [f'the training was not interrupted before {first}']
    resumed = _train(case, folder / 'killed')
    problems = []
    for kind in (lambda runner: bare_model(runner.model), _validated):
        one, other = (kind(each).state_dict() for each in (whole, resumed))
        names = [key for key in one if not torch.equal(one[key], other[key])]
        if names:
            problems.append(f'after resuming, {names[:3]} differ')
    return problems
