"""Registries of m2at_mm, each a child of one of MMEngine's root registries.

With them a config finds our types as ``m2at_mm.NAME`` under any default
scope and without ``custom_imports``.
"""

from typing import Any

from mmengine import registry as _root
from mmengine.registry import Registry

from m2at_mm import checkpoint_files

# Here, as every part of the package imports this module.
checkpoint_files.protect_mmengine()


def _child(root: Registry, *packages: str) -> Registry:
    locations = [f'm2at_mm.{package}' for package in packages]
    return Registry(root.name, parent=root, locations=locations)


# Backbones, classifier wrappers and data preprocessors.
MODELS = _child(
    _root.MODELS, 'backbones', 'data_preprocessors', 'model_wrappers'
)
# Classes like DistributedDataParallel, and nothing else: MMEngine neither
# moves nor wraps a model whose type is registered here.
MODEL_WRAPPERS = _child(_root.MODEL_WRAPPERS, 'model_wrappers')
# Checks before training or testing starts, exact resume, schedules of the
# attack, guards and pictures.
HOOKS = _child(_root.HOOKS, 'hooks')
# Robust accuracy.
METRICS = _child(_root.METRICS, 'evaluation')
# The robustness evaluation in place of MMEngine's test loop, and the training
# loops of FreeAT and of epochs that go on in their middle.
LOOPS = _child(_root.LOOPS, 'evaluation', 'runner')
# Runs of configs that name a recipe.
RUNNERS = _child(_root.RUNNERS, 'recipes')
# Adversarial weight perturbation.
OPTIM_WRAPPERS = _child(_root.OPTIM_WRAPPERS, 'optim')
# CIFAR with a held-out validation split, the embedded digits, and generated
# images.
DATASETS = _child(_root.DATASETS, 'datasets')
# Batches with a fixed share of generated images.
DATA_SAMPLERS = _child(_root.DATA_SAMPLERS, 'datasets')
# What joins a dataset's samples to a batch.
FUNCTIONS = _child(_root.FUNCTIONS, 'datasets')
# Attacks and training methods.
TASK_UTILS = _child(_root.TASK_UTILS, 'attacks', 'methods')


def type_name(kind: Any) -> str:
    """``'CIFAR10'`` of the class, of its name or of ``'scope.CIFAR10'``."""
    name = kind.__name__ if isinstance(kind, type) else str(kind)
    return name.split('.')[-1]
