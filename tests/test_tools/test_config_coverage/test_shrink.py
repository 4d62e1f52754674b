from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config, ConfigDict
from mmpretrain.registry import MODELS

from config_coverage.shrink import (
    fit_network,
    input_sizes,
    narrow,
    use_folder,
)
from m2at_mm.cli import load_config


def stock(name: str) -> Config:
    return load_config(f'mmpretrain::{name}.py')


@pytest.mark.parametrize(
    ('name', 'sizes'),
    [
        ('resnet/resnet18_8xb16_cifar10', [32]),
        ('lenet/lenet5_mnist', [32]),
        ('resnet/resnet50_8xb32_in1k', [64, 128, 224]),
        ('inception_v3/inception-v3_8xb32_in1k', [64, 128, 299]),
    ],
)
def test_sizes_end_with_the_networks_own(name: str, sizes: list[int]) -> None:
    assert input_sizes(stock(name)) == sizes


def test_images_come_from_the_folder_through_the_configs_transforms() -> None:
    cfg = stock('swin_transformer/swin-tiny_16xb64_in1k')
    before = [t.type for t in cfg.train_dataloader.dataset.pipeline]
    use_folder(cfg, Path('/pictures'), 64, 4)
    train, val = (cfg[f'{n}_dataloader'].dataset for n in ('train', 'val'))
    for dataset, expected in ((train, ('train', 8)), (val, ('test', 4))):
        assert dataset.data_root == '/pictures'
        assert (dataset.data_prefix, dataset.indices) == expected
    pipeline = {t.type: t for t in train.pipeline}
    assert [*pipeline] == before
    assert pipeline['RandomResizedCrop'].scale == 64
    assert pipeline['RandAugment'].magnitude_level == 9  # no size


def test_network_learns_its_input_size_also_inside_an_adapter() -> None:
    plain, adapted, without = (
        stock(name).model
        for name in (
            'deit/deit-tiny_4xb256_in1k',
            'vision_transformer/vit-base-p16_8xb64-lora_in1k-384px',
            'lenet/lenet5_mnist',
        )
    )
    for model in (plain, adapted, without):
        fit_network(model, 64)
    assert plain.backbone.img_size == adapted.backbone.module.img_size == 64
    assert 'img_size' not in without.backbone


@pytest.mark.parametrize(
    ('backbone', 'depths'),
    [
        (dict(type='VisionTransformer', arch='deit-tiny'), [2]),
        (dict(type='VisionTransformer', arch='deit-t', out_indices=[11]), [2]),
        (dict(type='ConvNeXt', arch='atto'), [2, 2, 2, 2]),
        (dict(type='MobileNetV2'), None),  # names no depth
    ],
)
def test_narrowed_networks(backbone: Any, depths: list[int] | None) -> None:
    classifier = ConfigDict(backbone=dict(backbone))
    if depths is None:
        assert narrow(classifier) is None and classifier.backbone == backbone
        return
    assert narrow(classifier) == '2 blocks per stage'
    less, whole = map(MODELS.build, (classifier.backbone, backbone))
    stages = getattr(less, 'stages', None) or [less.layers]
    assert [len(stage) for stage in stages] == depths
    few, many = (
        sum(p.numel() for p in one.parameters()) for one in (less, whole)
    )
    assert few < 0.8 * many
