"""The configs that the package ships."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from m2at_mm.cli import load_config
from m2at_mm.recipes import config_root
from m2at_mm.registry import DATASETS, MODELS

CONFIGS = sorted(config_root().glob('*.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_builds(path: Path) -> None:
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(path)
    settings = dict(cfg.data_preprocessor)
    model = MODELS.build(dict(cfg.model, data_preprocessor=settings))
    method = path.stem.split('_')[0].replace('-', '')
    assert type(model.method).__name__.lower() == method
    assert model.num_classes == model.head.num_classes == 10
    assert cfg.default_hooks.checkpoint.save_best.partition('/')[2] in (
        model.eval_attacks
    )
    for name in ('train', 'val', 'test'):
        dataset = dict(cfg[f'{name}_dataloader'].dataset, lazy_init=True)
        assert DATASETS.build(dataset).split == name


def test_network_and_pixels_are_those_of_mmpretrain() -> None:
    ours = Config.fromfile(config_root() / 'm2at_resnet18_cifar10.py')
    stock = load_config('mmpretrain::resnet/resnet18_8xb16_cifar10.py')
    classifier = stock.model.to_dict()
    classifier.pop('_scope_', None)
    # The one difference, which changes initial weights and nothing else.
    classifier['backbone']['zero_init_residual'] = False
    assert ours.model.classifier.to_dict() == classifier
    pixels = stock.data_preprocessor.to_dict()
    pixels.pop('_scope_', None)
    assert ours.data_preprocessor.to_dict() == pixels


def test_training_is_that_of_the_robust_overfitting_literature() -> None:
    cfg = Config.fromfile(config_root() / 'm2at_resnet18_cifar10.py')
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr) == ('SGD', 0.1)
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 5e-4)
    assert cfg.train_dataloader.batch_size == 128
    assert cfg.param_scheduler.milestones == [100, 150]
    assert cfg.train_cfg.max_epochs == 200


@pytest.mark.parametrize('method', ['pgd-at', 'standard'])
def test_methods_differ_in_nothing_else(method: str) -> None:
    ours = Config.fromfile(config_root() / 'm2at_resnet18_cifar10.py')
    other = Config.fromfile(config_root() / f'{method}_resnet18_cifar10.py')
    other.model.method = ours.model.method
    assert other.to_dict() == ours.to_dict()
