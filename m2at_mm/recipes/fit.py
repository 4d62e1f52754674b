"""Fits a recipe, written for CIFAR, to other images and networks."""

from __future__ import annotations

import copy
import re
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmpretrain.registry import MODELS

from m2at_mm.attacks import parse_pixels
from m2at_mm.model_wrappers.targets import try_targets
from m2at_mm.recipes.types import (
    attack_configs,
    constructor_defaults,
    inner_backbone,
    loaded_datasets,
    model_class,
)
from m2at_mm.registry import type_name

# Up to this side in pixels the usual linf radius is 8/255, as on CIFAR.
_SMALL_IMAGE = 64
# Datasets of such images, where no transform sets the size.
_SMALL_IMAGES = ('CIFAR10', 'CIFAR100', 'MNIST', 'FashionMNIST', 'Digits')
# The usual radius on ImageNet (arXiv 1902.06705, 2001.03994).
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
    threat = recipe.model.threat_model
    images = _large_images(cfg)
    if images is None or threat.norm != 'linf':
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
        f'the radius is {threat.eps}, as is usual for images of {images}; '
        'another one: --cfg-options model.threat_model.eps=8/255 and the '
        "attacks' step_size",
        logger='current',
    )


def _large_images(cfg: Config) -> str | None:
    """Size or dataset of the images, None if they are small or unknown."""
    for part in ('train', 'val', 'test'):
        for dataset in loaded_datasets(cfg, part):
            for transform in reversed(dataset.get('pipeline') or []):
                side = _side(transform)
                if side is not None:
                    return f'{side} pixels' if side > _SMALL_IMAGE else None
            if 'type' in dataset:
                name = type_name(dataset.type)
                return None if name in _SMALL_IMAGES else name
    return None


def _side(transform: ConfigDict) -> int | None:
    """The longer side of the images that a transform gives, if it sets one."""
    for name in ('crop_size', 'scale', 'size'):
        size = transform.get(name)
        if isinstance(size, int):
            return size
        if isinstance(size, (list, tuple)) and all(
            isinstance(side, int) for side in size
        ):
            return int(max(size))
    return None


def fit_mask(recipe: Config, classifier: ConfigDict) -> None:
    """Give M2AT masks of a vision transformer's patches.

    Args:
        recipe (Config): Its ``model.method`` is changed.
        classifier (ConfigDict): The classification config's model.
    """
    method = recipe.model.method
    size = token_size(classifier)
    if type_name(method.type) != 'M2AT' or size is None:
        return
    method.setdefault('mask', 'patch')
    method.setdefault('patch_size', size)
    print_log(
        f"M2AT's masks are made of the network's patches of {size} pixels; "
        "rectangles instead: --cfg-options model.method.mask='rectangle'",
        logger='current',
    )


def fit_labels(recipe: Config, classifier: ConfigDict) -> None:
    """Keep M2AT's labels hard where the loss takes no others.

    Args:
        recipe (Config): Its ``model.method`` is changed.
        classifier (ConfigDict): The classification config's model.
    """
    method, head = recipe.model.method, classifier.get('head') or {}
    loss, num_classes = head.get('loss'), head.get('num_classes')
    if type_name(method.type) != 'M2AT' or not (loss and num_classes):
        return
    module = MODELS.build(copy.deepcopy(loss))
    if not try_targets(module, num_classes).scores:
        method.update(clean_label=1.0, perturbed_label=1.0)
        print_log(
            f'M2AT keeps hard labels, as {type_name(loss["type"])} takes no '
            'probabilities',
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
        kind = model_class(backbone.get('type'))
        default = constructor_defaults(kind).get('patch_size')
        size = backbone.get('patch_size', default)
    if isinstance(size, (list, tuple)) and len(set(size)) == 1:
        size = size[0]
    if not isinstance(size, int) or size < _SMALLEST_TOKEN:
        return None
    return size
