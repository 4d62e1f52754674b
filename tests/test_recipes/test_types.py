from __future__ import annotations

import inspect

import pytest
from mmengine.config import ConfigDict
from mmpretrain.datasets import CIFAR10
from mmpretrain.models import ResNet, ResNet_CIFAR

from m2at_mm.recipes.types import (
    attack_configs,
    constructor_defaults,
    inner_backbone,
    leaf_datasets,
    model_class,
    type_name,
)


@pytest.mark.parametrize('kind', [CIFAR10, 'CIFAR10', 'mmpretrain.CIFAR10'])
def test_type_name(kind: object) -> None:
    assert type_name(kind) == 'CIFAR10'


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
    joined = dict(
        type='RepeatDataset',
        dataset=dict(
            type='ConcatDataset',
            datasets=[first, dict(type='KFoldDataset', dataset=second)],
        ),
    )
    assert leaf_datasets(ConfigDict(joined)) == [first, second]
    assert leaf_datasets(None) == []


def test_backbone_inside_an_adapter() -> None:
    inner = dict(type='VisionTransformer')
    adapted = ConfigDict(backbone=dict(type='LoRAModel', module=inner))
    assert inner_backbone(adapted) == inner
    assert inner_backbone(ConfigDict(backbone=inner)) == inner
    assert inner_backbone(ConfigDict(model_name='resnet18')) is None
