"""Fits a recipe, written for CIFAR, to the images and network of a config."""

import inspect
import re
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmpretrain.registry import MODELS

from m2at_mm.attacks import parse_pixels
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
    """Halve a linf recipe's radius and steps for large images."""
    threat = recipe.model.threat_model
    images, large = _images(cfg)
    if threat.norm != 'linf':
        return
    if large:
        usual = parse_pixels(threat.eps, 'eps')
        threat.eps = _EPS_LARGE_IMAGES
        factor = parse_pixels(threat.eps, 'eps') / usual
        for attack in attack_configs(recipe.model):
            if attack.get('step_size') is not None:
                size = parse_pixels(attack.step_size, 'step_size') * factor
                attack.step_size = f'{size * 255:g}/255'
    other = '8/255' if large else _EPS_LARGE_IMAGES
    print_log(
        f'the recipe takes the radius {threat.eps}, as is usual for images of '
        f'{images}; options like model.threat_model.eps={other} come on top, '
        "and need a step_size of the attacks' that fits",
        logger='current',
    )


def _images(cfg: Config) -> tuple[str, bool]:
    """Size or dataset of the images, and whether they are large."""
    for part in ('train', 'val', 'test'):
        for dataset in loaded_datasets(cfg, part):
            for transform in reversed(dataset.get('pipeline') or []):
                side = _side(transform)
                if side is not None:
                    return f'{side} pixels', side > _SMALL_IMAGE
            if 'type' in dataset:
                name = type_name(dataset.type)
                return name, name not in _SMALL_IMAGES
    return 'unknown size', False


def _side(transform: ConfigDict) -> int | None:
    for name in ('crop_size', 'scale', 'size'):
        size = transform.get(name)
        sides = size if isinstance(size, (list, tuple)) else [size]
        if all(isinstance(side, int) for side in sides):
            return int(max(sides))
    return None


def fit_m2at(recipe: Config, classifier: ConfigDict) -> None:
    """Mask a transformer's own patches."""
    method = recipe.model.method
    if type_name(method.type) != 'M2AT':
        return
    size = token_size(classifier)
    if size is not None:
        method.setdefault('mask', 'patch')
        method.setdefault('patch_size', size)
        print_log(
            f"M2AT's masks are made of the network's patches of {size} "
            'pixels; rectangles instead: --cfg-options '
            "model.method.mask='rectangle'",
            logger='current',
        )


def token_size(classifier: ConfigDict) -> int | None:
    """Side in pixels, at least 8, of the square patches that a network uses.

    None where the config names none.
    """
    backbone = inner_backbone(classifier)
    size: Any = None
    if backbone is None:  # timm's and Hugging Face's names tell it
        found = re.search(r'patch(\d+)', str(classifier.get('model_name')))
        size = int(found[1]) if found else None
    else:
        kind = model_class(backbone.get('type'))
        default = constructor_defaults(kind).get('patch_size')
        size = backbone.get('patch_size', default)
    if isinstance(size, (list, tuple)) and len(set(size)) == 1:
        size = size[0]
    token = isinstance(size, int) and size >= _SMALLEST_TOKEN
    return size if token else None


def model_class(kind: Any) -> Any | None:
    """The class of a model, backbone or head, None if it is unknown."""
    if kind is None or isinstance(kind, type):
        return kind
    return MODELS.get(str(kind))


def constructor_defaults(kind: Any | None) -> dict[str, Any]:
    """Names and defaults (``Parameter.empty``: none) of all arguments."""
    found: dict[str, Any] = {}
    for base in kind.__mro__ if kind is not None else ():
        parameters = inspect.signature(base.__init__).parameters
        for name, parameter in parameters.items():
            if found.get(name, parameter.empty) is parameter.empty:
                found[name] = parameter.default
    return found


def attack_configs(model: ConfigDict) -> list[ConfigDict]:
    """The training and validation attacks of an adversarial classifier."""
    found = [model.get('train_attack')]
    found += (model.get('eval_attacks') or {}).values()
    return [attack for attack in found if attack]


def leaf_datasets(dataset: ConfigDict | None) -> list[ConfigDict]:
    """The datasets with images inside those that repeat or join others."""
    if not dataset:
        return []
    one_each = ('dataset', 'original', 'generated')
    inside = dataset.get('datasets') or map(dataset.get, one_each)
    return [leaf for one in inside for leaf in leaf_datasets(one)] or [dataset]


def loaded_datasets(cfg: Config, part: str) -> list[ConfigDict]:
    """The datasets with images of the train, val or test dataloader."""
    return leaf_datasets((cfg.get(f'{part}_dataloader') or {}).get('dataset'))


def inner_backbone(classifier: ConfigDict) -> ConfigDict | None:
    """The backbone, or the one inside an adapter such as LoRA's."""
    backbone = classifier.get('backbone')
    while backbone is not None and 'module' in backbone:
        backbone = backbone.module
    return backbone
