"""The configs that the package ships."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mmpretrain
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from tiny import raw_batch

from m2at_mm.recipes import config_root, recipe_names
from m2at_mm.registry import DATASETS, MODELS

STOCK = Path(mmpretrain.__file__).parent / '.mim' / 'configs' / 'resnet'
CONFIGS = sorted(config_root().glob('*.py'))
# The method of each name that does not spell it.
METHODS = {'fast-at': 'PGDAT', 'n-fgsm': 'PGDAT'}
METHODS |= {'m2at-awp-ema': 'M2AT', 'm2at-generated': 'M2AT'}
# Configs whose only difference from M2AT's is the model's method and attack.
SAME_BUDGET = ['pgd-at', 'standard', 'trades', 'mart', 'avmixup', 'iat']
# The backbones at a fraction of their size; the head gets 64 channels.
NARROW: dict[str, dict[str, int]] = {
    'ResNet_CIFAR': dict(base_channels=8, stem_channels=8),
    'm2at_mm.PreActResNet_CIFAR': dict(base_channels=8),
    'm2at_mm.WideResNet_CIFAR': dict(depth=10, widen_factor=1),
}


def _load(name: str, rest: str = '_resnet18_cifar10') -> Config:
    return Config.fromfile(config_root() / f'{name}{rest}.py')


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_builds_and_trains_a_step(path: Path) -> None:
    cfg = Config.fromfile(path)
    for part in ('train', 'val', 'test'):
        dataset = dict(cfg[f'{part}_dataloader'].dataset, lazy_init=True)
        built = DATASETS.build(dataset)
        # Generated images have no split.
        assert getattr(built, 'datasets', [built])[0].split == part
    backbone = cfg.model.classifier.backbone
    backbone.update(NARROW[backbone.type])
    cfg.model.classifier.head.in_channels = 64
    if 'steps' in (cfg.model.train_attack or {}):
        cfg.model.train_attack.steps = 2
    torch.manual_seed(0)
    init_default_scope('mmpretrain')
    cfg.model.data_preprocessor = cfg.data_preprocessor
    model = MODELS.build(cfg.model).train()
    name = path.stem.split('_')[0]
    method = METHODS.get(name, name.replace('-', ''))
    assert type(model.method).__name__.lower() == method.lower()
    classes = 100 if path.stem.endswith('cifar100') else 10
    assert model.num_classes == model.head.num_classes == classes
    best = cfg.default_hooks.checkpoint.save_best
    assert best.partition('/')[2] in model.eval_attacks
    stand_in: Any = SimpleNamespace(model=model)
    wrapper = Runner.build_optim_wrapper(stand_in, cfg.optim_wrapper)
    before = [p.detach().clone() for p in model.parameters()]
    log = model.train_step(raw_batch(), wrapper)
    assert torch.isfinite(log['loss'])
    moved = [not torch.equal(*p) for p in zip(model.parameters(), before)]
    assert any(moved)


def test_network_and_transforms_are_those_of_mmpretrain() -> None:
    stock = Config.fromfile(STOCK / 'resnet18_8xb16_cifar10.py')
    ours, free = _load('m2at'), _load('free-at')
    # The one difference, which changes initial weights and nothing else.
    stock.model.backbone.zero_init_residual = False
    assert ours.model.classifier == stock.model
    pipeline = stock.train_dataloader.dataset.pipeline
    crop, flip, _ = pipeline
    assert (crop.type, crop.crop_size) == ('RandomCrop', 32)
    assert (flip.type, flip.direction) == ('RandomFlip', 'horizontal')
    augment = dict(crop_padding=crop.padding, flip_prob=flip.prob)
    expected = dict(stock.data_preprocessor, augment=augment)
    assert ours.data_preprocessor == expected
    assert free.data_preprocessor.augment is None
    assert not free.train_dataloader.dataset.whole_batches
    assert free.train_dataloader.dataset.pipeline == pipeline
    ours = _load('m2at', '_resnet18_cifar100')
    stock = Config.fromfile(STOCK / 'resnet50_8xb16_cifar100.py')
    for name in ('mean', 'std', 'num_classes', 'to_rgb'):
        assert ours.data_preprocessor[name] == stock.data_preprocessor[name]


def test_training_is_that_of_the_robust_overfitting_literature() -> None:
    cfg = _load('m2at')
    sgd = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)
    assert cfg.optim_wrapper.optimizer == sgd
    assert cfg.train_dataloader.batch_size == 128
    assert cfg.param_scheduler.milestones == [100, 150]
    assert cfg.train_cfg.max_epochs == 200


@pytest.mark.parametrize('method', SAME_BUDGET)
def test_methods_differ_in_nothing_else(method: str) -> None:
    ours, other = _load('m2at'), _load(method)
    other.model.method = ours.model.method
    other.model.train_attack = ours.model.train_attack
    assert other.to_dict() == ours.to_dict()


@pytest.mark.parametrize('recipe', recipe_names())
def test_recipe_has_the_settings_of_the_config(recipe: str) -> None:
    recipe_cfg = _load(f'_base_/recipes/{recipe}', '')
    method = recipe.removesuffix('-finetune')  # the same, but for a schedule
    config = _load(method).model.to_dict()
    config.pop('classifier')
    assert recipe_cfg.model.to_dict() == config
