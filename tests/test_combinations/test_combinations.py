"""Pairwise combinations of what users combine, each trained and checked."""

import math
import traceback
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from digits_runner import KillAt, KilledError
from mmengine import dist
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner, set_random_seed
from quick_autoattack import quick_autoattack
from two_processes import on_two_processes

from m2at_mm import registry
from m2at_mm.hooks import RNGStateHook
from m2at_mm.model_wrappers import bare_model

from . import cases
from .cases import AXES, PLAIN, REFUSED, Case
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
    problems += _unseen(case, runner, seen) + _accuracy(runner)
    if case['run'] == 'killed':
        problems += _killed(case, folder, runner)
    return problems


def _unseen(case: Case, runner: Runner, seen: Seen) -> list[str]:
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


CASES = cases.pairwise(seed=0)
ALONE = [case for case in CASES if case['ranks'] == 1]
TOGETHER = [case for case in CASES if case['ranks'] == 2]


def _title(case: Case) -> str:
    return ', '.join(str(case[name]) for name in AXES if name != 'ranks')


def test_every_pair_is_covered(record_property: Any) -> None:
    pairs = [pair for pair in cases.all_pairs() if cases.refusal(pair) is None]
    assert [pair for pair in pairs if not cases.is_covered(pair, CASES)] == []
    record_property('pairs', f'{len(CASES)} combinations, {len(pairs)} pairs')


@pytest.mark.parametrize('case', ALONE, ids=_title)
def test_a_combination(case: Case, tmp_path: Path) -> None:
    assert run(case, tmp_path) == []


def _run_together(folder: str, rank: int) -> dict[str, list[str]]:
    found = {}
    for number, case in enumerate(TOGETHER):
        try:
            found[_title(case)] = run(case, Path(folder, str(number)))
        except Exception:
            found[_title(case)] = [traceback.format_exc()]
    return found


def test_combinations_on_two_processes(tmp_path: Path) -> None:
    work = partial(_run_together, str(tmp_path / 'runs'))
    for found in on_two_processes(work, tmp_path):
        assert {title: p for title, p in found.items() if p} == {}
        assert len(found) == len(TOGETHER)


@pytest.mark.parametrize('case', REFUSED, ids=_title)
def test_it_is_refused_at_once(case: Case, tmp_path: Path) -> None:
    seen = Seen()
    with pytest.raises(Exception, match=str(cases.refusal(case))):
        runner = build_runner(case, tmp_path)
        runner.register_hook(seen)
        runner.train()
    assert not seen.losses


def test_a_broken_hook_is_found(tmp_path: Path, monkeypatch: Any) -> None:
    case = dict(PLAIN, method='M2AT', run='killed')
    assert run(case, tmp_path / 'sound') == []
    monkeypatch.setattr(RNGStateHook, 'before_save_checkpoint', Mock())
    problems = run(case, tmp_path / 'broken')
    assert problems and all('after resuming' in one for one in problems)
