"""Classes, attacks and datasets that a config names."""

from __future__ import annotations

import inspect
from typing import Any

from mmengine.config import Config, ConfigDict
from mmpretrain.registry import MODELS


def model_class(kind: Any) -> Any | None:
    """The class of a model, backbone or head, None if it is unknown."""
    if kind is None or isinstance(kind, type):
        return kind
    return MODELS.get(str(kind))


def constructor_defaults(kind: Any | None) -> dict[str, Any]:
    """Names and defaults of a class's arguments, its bases' included.

    The value is ``inspect.Parameter.empty`` where there is no default.
    """
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
    if 'dataset' in dataset:
        return leaf_datasets(dataset.dataset)
    if 'datasets' in dataset:
        return [
            leaf for one in dataset.datasets for leaf in leaf_datasets(one)
        ]
    return [dataset]


def loaded_datasets(cfg: Config, part: str) -> list[ConfigDict]:
    """The datasets with images of the train, val or test dataloader."""
    return leaf_datasets((cfg.get(f'{part}_dataloader') or {}).get('dataset'))


def inner_backbone(classifier: ConfigDict) -> ConfigDict | None:
    """The backbone, or the one inside an adapter such as LoRA's."""
    backbone = classifier.get('backbone')
    while backbone is not None and 'module' in backbone:
        backbone = backbone.module
    return backbone
