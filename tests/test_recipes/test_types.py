from __future__ import annotations

import inspect

from mmengine.config import Config, ConfigDict
from mmpretrain.models import ResNet, ResNet_CIFAR

from m2at_mm.recipes.types import (
    attack_configs,
    constructor_defaults,
    inner_backbone,
    loaded_datasets,
    model_class,
)


def test_model_class() -> None:
    assert model_class('ResNet') is model_class(ResNet) is ResNet
    assert model_class(None) is model_class('NoSuchNet') is None


def test_defaults_of_bases_count_where_a_class_has_none() -> None:
    defaults = constructor_defaults(ResNet_CIFAR)
    assert defaults['deep_stem'] is False  # of its own
    assert defaults['base_channels'] == 64  # of ResNet
    assert defaults['depth'] is inspect.Parameter.empty
    assert constructor_defaults(None) == {}


def test_attacks_that_are_there() -> None:
    one, two = dict(type='PGD'), dict(type='FGSM')
    model = ConfigDict(train_attack=one, eval_attacks=dict(a=two))
    assert attack_configs(model) == [one, two]
    assert attack_configs(ConfigDict(train_attack=None)) == []


def test_datasets_inside_others() -> None:
    first, second = dict(type='A'), dict(type='B')
    fold = dict(type='KFoldDataset', dataset=second)
    joined = dict(type='ConcatDataset', datasets=[first, fold])
    repeated = dict(type='RepeatDataset', dataset=joined)
    cfg = Config(dict(train_dataloader=dict(dataset=repeated)))
    assert loaded_datasets(cfg, 'train') == [first, second]
    assert loaded_datasets(cfg, 'val') == []


def test_backbone_inside_an_adapter() -> None:
    inner = dict(type='VisionTransformer')
    adapted = ConfigDict(backbone=dict(type='LoRAModel', module=inner))
    assert inner_backbone(adapted) == inner
    assert inner_backbone(ConfigDict(backbone=inner)) == inner
    assert inner_backbone(ConfigDict(model_name='resnet18')) is None
