"""Fits a recipe, written for CIFAR, to other images and networks."""

from __future__ import annotations

import re
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from m2at_mm.attacks import parse_pixels
from m2at_mm.recipes.types import (
    attack_configs,
    constructor_defaults,
    inner_backbone,
    leaf_datasets,
    model_class,
    type_name,
)

# Datasets of images of about 32 pixels, where 8/255 is the usual linf radius.
_SMALL_IMAGES = ('CIFAR10', 'CIFAR100', 'MNIST', 'FashionMNIST', 'Digits')
# The usual one on ImageNet (arXiv 1902.06705, 2001.03994).
_EPS_LARGE_IMAGES = '4/255'
# A coarser grid than the smallest tokens of hierarchical networks, whose
# later stages look at larger regions.
_SMALLEST_TOKEN = 8


def fit_radius(recipe: Config, cfg: Config) -> None:
    """Halve a linf recipe's radius and steps for large images.

    Args:
        recipe (Config): Its ``model`` is changed.
        cfg (Config): The classification config.
    """
    dataset = _training_dataset(cfg)
    threat = recipe.model.threat_model
    if dataset is None or dataset in _SMALL_IMAGES or threat.norm != 'linf':
        return
    factor = parse_pixels(_EPS_LARGE_IMAGES, 'eps') / parse_pixels(
        threat.eps, 'eps'
    )
    threat.eps = _EPS_LARGE_IMAGES
    for attack in attack_configs(recipe.model):
        if attack.get('step_size') is not None:
            size = parse_pixels(attack.step_size, 'step_size') * factor
            attack.step_size = f'{size * 255:g}/255'
    print_log(
        f'the radius is {threat.eps}, as is usual for images of {dataset}; '
        'another one: --cfg-options model.threat_model.eps=8/255 and the '
        "attacks' step_size",
        logger='current',
    )


def fit_mask(recipe: Config, classifier: ConfigDict) -> None:
    """Give M2AT masks of a vision transformer's patches.

    Args:
        recipe (Config): Its ``model.method`` is changed.
        classifier (ConfigDict): The classification config's model.
    """
    method = recipe.model.method
    if type_name(method.type) != 'M2AT':
        return
    size = token_size(classifier)
    if size is None:
        return
    method.setdefault('mask', 'patch')
    method.setdefault('patch_size', size)
    print_log(
        f"M2AT's masks are made of the network's patches of {size} pixels; "
        "rectangles instead: --cfg-options model.method.mask='rectangle'",
        logger='current',
    )


def token_size(classifier: ConfigDict) -> int | None:
    """Side in pixels of the patches that a network cuts an image into.

    Args:
        classifier (ConfigDict): Config of a classifier.

    Returns:
        int, optional: The side, or None for networks whose config names no
        such patches, or oblong ones, or ones below 8 pixels.
    """
    backbone = inner_backbone(classifier)
    size: Any = None
    if backbone is None:  # timm's and Hugging Face's names tell it
        found = re.search(
            r'patch(\d+)(?!\d)', str(classifier.get('model_name'))
        )
        size = int(found.group(1)) if found else None
    else:
        size = backbone.get(
            'patch_size',
            constructor_defaults(model_class(backbone.get('type'))).get(
                'patch_size'
            ),
        )
    if isinstance(size, (list, tuple)) and len(set(size)) == 1:
        size = size[0]
    if not isinstance(size, int) or size < _SMALLEST_TOKEN:
        return None
    return size


def _training_dataset(cfg: Config) -> str | None:
    """Name of the dataset's type."""
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for dataset in leaf_datasets((cfg.get(loader) or {}).get('dataset')):
            if 'type' in dataset:
                return type_name(dataset.type)
    return None
