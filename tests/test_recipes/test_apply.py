"""Recipes against the same configs written by hand."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from data_files import make_folder
from digits_runner import same
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import Runner
from mmpretrain.datasets import CIFAR10
from mmpretrain.models import ImageClassifier, ResNet_CIFAR
from pytest import MonkeyPatch

from m2at_mm.cli import load_config
from m2at_mm.model_wrappers import AdversarialClassifier
from m2at_mm.recipes import (
    apply_recipe,
    config_root,
    with_named_recipe,
)
from m2at_mm.recipes.fit import loaded_datasets
from m2at_mm.registry import MODELS

STOCK = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
PARTS = ('train', 'val', 'test')
METRICS = ['Accuracy', 'm2at_mm.RobustAccuracy']
ROOT = Path(__file__).resolve().parents[2]
README, YOUR_CONFIG = ROOT / 'README.md', ROOT / 'docs' / 'your_config.md'


def code_blocks(text: str) -> list[str]:
    return re.findall(r'```python\n(.*?)```', text, re.DOTALL)


@pytest.fixture
def stock() -> Config:
    """mmpretrain's own config, to be changed."""
    return load_config(STOCK)


def _train_two_steps(cfg: Config, root: Path, work_dir: Path) -> dict:
    cfg.model.classifier.backbone.update(base_channels=4, stem_channels=4)
    cfg.model.classifier.head.in_channels = 32
    for name in ('train', 'val'):
        loader = cfg[f'{name}_dataloader']
        loader.update(num_workers=0, batch_size=8, persistent_workers=False)
        loader.dataset.update(data_root=str(root), indices=16, val_size=20)
    changed = dict(model=dict(train_attack=dict(steps=2)))
    changed.update(train_cfg=dict(max_epochs=1), randomness=dict(seed=3))
    cfg.merge_from_dict(dict(changed, work_dir=str(work_dir)))
    runner = Runner.from_cfg(cfg)
    runner.train()
    return copy.deepcopy(runner.model.state_dict())


@pytest.mark.parametrize('name', ['m2at', 'pgd-at'])
def test_recipe_trains_as_the_config_by_hand(
    name: str, stock: Config, tmp_path: Path
) -> None:
    root = make_folder(tmp_path / 'images')
    recipe = apply_recipe(stock, name)
    # The config that the documentation writes out.
    _, _, text = YOUR_CONFIG.read_text().partition('Written out')
    by_hand = Config.fromstring(code_blocks(text)[0], file_format='.py')
    if name != 'm2at':  # which is shown
        by_hand.model.method = recipe.model.method
    assert by_hand.to_dict() == recipe.to_dict()
    same(
        _train_two_steps(recipe, root, tmp_path / 'recipe'),
        _train_two_steps(by_hand, root, tmp_path / 'by_hand'),
    )


def test_three_lines_are_the_flag(stock: Config) -> None:
    three, least = code_blocks(README.read_text())[:2]
    assert len(three.splitlines()) == 3 and len(least.splitlines()) <= 5
    given = Config.fromstring(three, file_format='.py')
    before = copy.deepcopy(given).to_dict()
    expected = apply_recipe(stock, 'm2at').to_dict()
    assert with_named_recipe(given).to_dict() == expected
    assert given.to_dict() == before
    # With overrides, and options of mmpretrain's own tools on top.
    given.recipe = dict(name='m2at', method=dict(scale=1.5))
    given.merge_from_dict({'model.method.perturbed_label': 0.9})
    method = dict(scale=1.5, perturbed_label=0.9)
    expected = apply_recipe(stock, 'm2at', method=method).to_dict()
    assert with_named_recipe(given).to_dict() == expected
    for wrong in ('m2a', dict(method={})):
        given.recipe = wrong
        with pytest.raises(ValueError, match=r'^recipe=.* is unknown'):
            with_named_recipe(given)
    with pytest.raises(ValueError, match='the config has no model: give'):
        with_named_recipe(Config(dict(recipe='m2at')))
    # The defaults are the recipe's threat model and attacks.
    model = MODELS.build(Config.fromstring(least, file_format='.py').model)
    other = MODELS.build(apply_recipe(stock, 'm2at').model)
    threat = model.threat_model
    assert repr(threat) == repr(other.threat_model)
    for one, two in (
        (model.train_attack, other.train_attack),
        (model.eval_attacks['pgd10'], other.eval_attacks['pgd10']),
    ):
        lengths = (one.length_of_step(threat), two.length_of_step(threat))
        assert one.steps == two.steps == 10 and lengths[0] == lengths[1]


def test_the_rest_of_the_config_stays(stock: Config) -> None:
    before = copy.deepcopy(stock)
    cfg = apply_recipe(stock, 'm2at')
    assert stock.to_dict() == before.to_dict()
    assert cfg.model.classifier == stock.model
    for key in ('optim_wrapper', 'param_scheduler', 'train_cfg'):
        assert cfg[key] == stock[key]
    ours, theirs = (one.train_dataloader.dataset for one in (cfg, stock))
    assert ours.pipeline == theirs.pipeline


def _splits(cfg: Config) -> dict[str, list[tuple[str, str]]]:
    sets = {part: loaded_datasets(cfg, part) for part in PARTS}
    return {k: [(one.type, one.split) for one in sets[k]] for k in sets}


HELD_OUT = {part: [('m2at_mm.CIFAR10', part)] for part in PARTS}


WRAPPERS: dict[str, Callable[[Any], dict]] = {
    'repeat': lambda one: dict(type='RepeatDataset', times=2, dataset=one),
    'concatenate': lambda one: dict(type='ConcatDataset', datasets=[one]),
    'fold': lambda one: dict(type='KFoldDataset', dataset=one),
    'generated': lambda one: dict(
        type='m2at_mm.OriginalAndGenerated', original=one
    ),
}


@pytest.mark.parametrize('wrappers', [[], *([w] for w in WRAPPERS), WRAPPERS])
def test_selection_uses_no_test_split(wrappers: Any, stock: Config) -> None:
    for part in PARTS:
        loader = stock[f'{part}_dataloader']
        for name in wrappers:
            loader.dataset = WRAPPERS[name](loader.dataset)
    cfg = apply_recipe(stock, 'm2at')
    assert _splits(cfg) == HELD_OUT
    assert cfg.default_hooks.checkpoint.save_best == 'robust/pgd10'
    # The stock metric stays, next to ours.
    assert [one.type for one in cfg.val_evaluator] == METRICS
    assert cfg.model.threat_model.eps == '8/255'


def test_types_may_be_classes(stock: Config) -> None:
    stock.model.type = ImageClassifier
    stock.model.backbone.type = ResNet_CIFAR
    stock.train_dataloader.dataset.type = CIFAR10
    cfg = apply_recipe(stock, 'm2at')
    assert cfg.train_dataloader.dataset.type == 'm2at_mm.CIFAR10'
    assert cfg.model.threat_model.eps == '8/255'
    cfg.model.type = AdversarialClassifier
    with pytest.raises(ValueError, match='already'):
        apply_recipe(cfg, 'm2at')


@pytest.mark.parametrize('name', ['checkpoint', 'runtime_info'])
def test_the_user_s_own_hooks_stay(name: str, stock: Config) -> None:
    stock.default_hooks[name] = None  # switched off
    assert apply_recipe(stock, 'm2at').default_hooks[name] is None
    stock.default_hooks[name] = dict(type='their.Hook', setting=1)
    hooks = apply_recipe(stock, 'm2at').default_hooks
    assert (hooks[name].type, hooks[name].setting) == ('their.Hook', 1)
    assert hooks.checkpoint.save_best == 'robust/pgd10'


@pytest.mark.parametrize('name', ['ema', 'input_check', 'overfitting'])
def test_our_own_hooks_can_be_switched_off(name: str, stock: Config) -> None:
    every = apply_recipe(stock, 'm2at').default_hooks
    stock.default_hooks[name] = None
    hooks = apply_recipe(stock, 'm2at').default_hooks
    assert {*every} - {*hooks} == {name}


def test_the_user_s_own_average_stays(stock: Config) -> None:
    ours = apply_recipe(stock, 'm2at').default_hooks.ema
    stock.default_hooks.ema = dict(momentum=0.01)
    hooks = apply_recipe(stock, 'm2at').default_hooks
    assert hooks.ema == dict(ours, momentum=0.01)
    theirs = dict(type='EMAHook', ema_type='StochasticWeightAverage')
    stock.default_hooks.ema = theirs
    assert apply_recipe(stock, 'm2at').default_hooks.ema == theirs


def test_runtime_of_our_configs_is_what_a_recipe_sets(stock: Config) -> None:
    recipe = apply_recipe(stock, 'm2at')
    ours = Config.fromfile(config_root() / 'm2at_resnet18_cifar10.py')
    assert recipe.model_wrapper_cfg == ours.model_wrapper_cfg
    assert ours.default_hooks.checkpoint.type == 'm2at_mm.SafeCheckpointHook'
    hooks = recipe.default_hooks
    names = [k for k in hooks if hooks[k].type.startswith('m2at_mm.')]
    assert len(names) == 8
    for name in names:
        kept = dict(ours.default_hooks[name])
        kept.pop('max_keep_ckpts', None)
        assert hooks[name] == kept


def test_shared_test_images(stock: Config, monkeypatch: MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        'm2at_mm.recipes.apply.print_log', lambda text, **_: said.append(text)
    )
    loader = dict(dataset=dict(type='CustomDataset', data_root='here'))
    for name in PARTS:
        stock[f'{name}_dataloader'] = copy.deepcopy(loader)
    apply_recipe(stock, 'standard')
    assert len(said) == 1 and 'chosen on the test set' in said[0]


def test_config_without_validation_stays_without(stock: Config) -> None:
    stock.val_dataloader = stock.val_evaluator = stock.val_cfg = None
    metrics = dict(type='Accuracy')
    stock.test_evaluator = dict(type='Evaluator', metrics=metrics)
    cfg = apply_recipe(stock, 'm2at')
    assert cfg.val_evaluator is None
    assert 'save_best' not in cfg.default_hooks.checkpoint
    # An evaluator with metrics gets one more.
    assert cfg.test_evaluator.type == 'Evaluator'
    assert [one.type for one in cfg.test_evaluator.metrics] == METRICS


def test_what_some_stock_configs_lack() -> None:
    stock = load_config('mmpretrain::resnest/resnest50_32xb64_in1k.py')
    assert stock.get('val_cfg') is None
    stock.find_unused_parameters = True
    cfg = apply_recipe(stock, 'm2at')
    assert cfg.val_cfg == cfg.test_cfg == {}
    assert cfg.model_wrapper_cfg.find_unused_parameters


@pytest.mark.parametrize('name', ['m2at', 'pgd-at'])
def test_fine_tuning_is_a_short_recipe(name: str, stock: Config) -> None:
    full = apply_recipe(stock, name)
    cfg = apply_recipe(stock, f'{name}-finetune')
    assert cfg.model == full.model
    assert cfg.optim_wrapper == full.optim_wrapper
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler.end == 10
    assert cfg.default_hooks.input_check.needs_checkpoint
    # The rate of each iteration, with three of them in an epoch.
    base = cfg.optim_wrapper.optimizer.lr
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    given = dict(optimizer=optimizer, epoch_length=3)
    scheduler = PARAM_SCHEDULERS.build(dict(cfg.param_scheduler, **given))
    for step in range(30):
        rate = optimizer.param_groups[0]['lr']
        assert rate == pytest.approx(0.1 * base * (1 - step / 29))
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize('sampler', ['InfiniteSampler', InfiniteSampler])
def test_fine_tuning_counts_epochs(sampler: Any, stock: Config) -> None:
    stock.train_cfg = dict(by_epoch=False, max_iters=6, val_interval=6)
    stock.train_dataloader.sampler = dict(type=sampler, shuffle=False)
    stock.default_hooks.checkpoint.update(by_epoch=False, interval=5000)
    stock.default_hooks.logger.log_metric_by_epoch = False
    stock.log_processor = dict(by_epoch=False)
    cfg = apply_recipe(stock, 'm2at-finetune')
    default = dict(type='DefaultSampler', shuffle=False)
    assert cfg.train_dataloader.sampler == default
    hooks = cfg.default_hooks
    assert hooks.checkpoint.by_epoch and hooks.checkpoint.interval == 1
    assert hooks.logger.log_metric_by_epoch and cfg.log_processor.by_epoch
    # The other recipes leave the schedule alone.
    assert apply_recipe(stock, 'm2at').train_cfg == stock.train_cfg


@pytest.mark.parametrize('part', ['val', 'test'])
def test_a_set_of_the_users_own_stays_his(part: str, stock: Config) -> None:
    own = dict(type='CustomDataset', data_root='mine', split='test')
    stock[f'{part}_dataloader'].dataset = own
    if part == 'test':
        joined = [stock.train_dataloader.dataset, dict(own, split='train')]
        joined = dict(type='ConcatDataset', datasets=joined)
        stock.train_dataloader.dataset = joined
    cfg = apply_recipe(stock, 'm2at')
    assert cfg[f'{part}_dataloader'] == stock[f'{part}_dataloader']
    found, mine = _splits(cfg), ('CustomDataset', 'train')
    if part == 'test':
        assert found['train'] == [*HELD_OUT['train'], mine]
        assert found['val'] == HELD_OUT['val']
    else:  # nothing is held out
        for name in ('train', 'test'):
            assert found[name] == [('CIFAR10', name)]
