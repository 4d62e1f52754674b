"""Moves a classifier's preprocessing settings to its wrapper."""

from __future__ import annotations

import copy
from typing import Any

from mmpretrain.models import VGG
from torch import nn

from m2at_mm.registry import type_name

_PREPROCESSOR = 'm2at_mm.AdversarialDataPreprocessor'


def take_over_preprocessing(
    classifier: dict[str, Any],
    outer: dict[str, Any] | nn.Module | None,
) -> tuple[dict[str, Any], dict[str, Any] | nn.Module]:
    """Move the preprocessing settings from the classifier to the wrapper.

    As in a stock config, those inside the model's config go before the
    top-level ones, and ``train_cfg`` holds batch augmentations. Crops and
    flips, which belong to the dataset, stay.

    Raises:
        ValueError: The preprocessor is for another task.
    """
    classifier = copy.deepcopy(classifier)
    inner = classifier.pop('data_preprocessor', None)
    augments = classifier.pop('train_cfg', None)
    if isinstance(outer, nn.Module):
        return classifier, outer
    settings = dict(copy.deepcopy(outer or {}))
    if inner and type_name(settings.get('type')) != type_name(_PREPROCESSOR):
        settings = {
            **{key: settings[key] for key in settings if key == 'augment'},
            **inner,
        }
    name = type_name(settings.get('type', 'ClsDataPreprocessor'))
    if name == 'ClsDataPreprocessor':
        settings['type'] = _PREPROCESSOR
    elif name != type_name(_PREPROCESSOR):
        raise ValueError(
            f'data_preprocessor type={settings["type"]!r} cannot be taken '
            'over: only ClsDataPreprocessor of single-label image '
            f'classification can. Give type={_PREPROCESSOR!r} and its '
            'settings'
        )
    if augments:
        settings.setdefault('batch_augments', augments)
    return classifier, settings


def needs_plain_layout(classifier: nn.Module) -> bool:
    """Whether a network cannot take images in channels-last layout.

    mmpretrain's VGG flattens its features by ``view``. And for strided 1x1
    convolutions whose input channels don't fill a vector (16 floats at most),
    oneDNN writes the weights' gradient out of bounds on CPUs: wrong gradients
    or a crash.
    """
    return any(
        isinstance(module, VGG) or _is_narrow_shortcut(module)
        for module in classifier.modules()
    )


def _is_narrow_shortcut(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.in_channels // module.groups < 16
    )
