from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config, ConfigDict
from mmpretrain.registry import MODELS

from m2at_mm.cli import load_config
from m2at_mm.coverage.shrink import (
    fit_network,
    forget_checkpoints,
    input_sizes,
    narrow,
    use_folder,
)


def stock(name: str) -> Config:
    return load_config(f'mmpretrain::{name}')


@pytest.mark.parametrize(
    ('name', 'sizes'),
    [
        ('resnet/resnet18_8xb16_cifar10.py', [32]),
        ('lenet/lenet5_mnist.py', [32]),
        ('resnet/resnet50_8xb32_in1k.py', [64, 128, 224]),
        ('inception_v3/inception-v3_8xb32_in1k.py', [64, 128, 299]),
    ],
)
def test_sizes_end_with_the_networks_own(name: str, sizes: list[int]) -> None:
    assert input_sizes(stock(name)) == sizes


def test_images_come_from_the_folder_through_the_configs_transforms() -> None:
    cfg = stock('swin_transformer/swin-tiny_16xb64_in1k.py')
    before = [t.type for t in cfg.train_dataloader.dataset.pipeline]
    use_folder(cfg, Path('/pictures'), 64, 4)
    dataset = cfg.train_dataloader.dataset
    assert dataset.data_root == '/pictures'
    assert (dataset.data_prefix, dataset.indices) == ('train', 8)
    assert cfg.val_dataloader.dataset.data_prefix == 'test'
    assert cfg.val_dataloader.dataset.indices == 4
    assert [t.type for t in dataset.pipeline] == before
    crop = next(t for t in dataset.pipeline if t.type == 'RandomResizedCrop')
    assert crop.scale == 64
    augment = next(t for t in dataset.pipeline if t.type == 'RandAugment')
    assert augment.magnitude_level == 9  # no size


def test_network_learns_its_input_size_also_inside_an_adapter() -> None:
    plain = stock('deit/deit-tiny_4xb256_in1k.py').model
    fit_network(plain, 64)
    assert plain.backbone.img_size == 64
    adapted = stock(
        'vision_transformer/vit-base-p16_8xb64-lora_in1k-384px.py'
    ).model
    fit_network(adapted, 64)
    assert adapted.backbone.module.img_size == 64
    without = stock('resnet/resnet50_8xb32_in1k.py').model
    fit_network(without, 64)
    assert 'img_size' not in without.backbone


def test_no_checkpoint_is_looked_for() -> None:
    cfg = stock('mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py')
    assert 'Pretrained' in str(cfg.model)
    rest = [
        init
        for init in cfg.model.get('init_cfg') or []
        if init.type != 'Pretrained'
    ]
    cfg.load_from = 'somewhere.pth'
    forget_checkpoints(cfg)
    assert 'Pretrained' not in str(cfg.model)
    assert (cfg.model.get('init_cfg') or []) == rest
    assert cfg.load_from is None


@pytest.mark.parametrize(
    ('backbone', 'blocks'),
    [
        (dict(type='VisionTransformer', arch='deit-tiny'), 'layers'),
        (dict(type='ConvNeXt', arch='atto'), 'stages'),
        (dict(type='VisionTransformer', arch='deit-t', out_indices=[11]), ''),
    ],
)
def test_narrowed_networks_build(
    backbone: dict[str, Any], blocks: str
) -> None:
    classifier = ConfigDict(backbone=backbone)
    full = MODELS.build(dict(backbone))
    assert narrow(classifier) == '2 blocks per stage'
    less = MODELS.build(classifier.backbone)
    assert _parameters(less) < 0.8 * _parameters(full)
    if blocks == 'layers':
        assert len(less.layers) == 2
    elif blocks == 'stages':
        assert [len(stage) for stage in less.stages] == [2, 2, 2, 2]


def test_a_network_that_names_no_depth_is_left_alone() -> None:
    classifier = ConfigDict(backbone=dict(type='MobileNetV2'))
    assert narrow(classifier) is None
    assert classifier.backbone == dict(type='MobileNetV2')


def _parameters(network: Any) -> int:
    return sum(one.numel() for one in network.parameters())
