"""Registries of m2at_mm, each a child of one of MMEngine's root registries.

With them a config finds our types as ``m2at_mm.NAME`` under any default
scope and without ``custom_imports``. Attacks and methods are in
:data:`TASK_UTILS`, data preprocessors in :data:`MODELS`: MMEngine has no
registry of their own for them.
"""

from typing import Any

from mmengine import registry as _root

# Backbones, classifier wrappers and data preprocessors.
MODELS = _root.Registry(
    'model',
    parent=_root.MODELS,
    locations=[
        'm2at_mm.backbones',
        'm2at_mm.data_preprocessors',
        'm2at_mm.model_wrappers',
    ],
)
# Classes like DistributedDataParallel, and nothing else: MMEngine neither
# moves nor wraps a model whose type is registered here.
MODEL_WRAPPERS = _root.Registry(
    'model_wrapper',
    parent=_root.MODEL_WRAPPERS,
    locations=['m2at_mm.model_wrappers'],
)
# Checks before training or testing starts, exact resume, schedules of the
# attack, guards and pictures.
HOOKS = _root.Registry(
    'hook',
    parent=_root.HOOKS,
    locations=['m2at_mm.hooks'],
)
# Robust accuracy.
METRICS = _root.Registry(
    'metric',
    parent=_root.METRICS,
    locations=['m2at_mm.evaluation'],
)
# The robustness evaluation in place of MMEngine's test loop, and the training
# loops of FreeAT and of epochs that go on in their middle.
LOOPS = _root.Registry(
    'loop',
    parent=_root.LOOPS,
    locations=['m2at_mm.evaluation', 'm2at_mm.runner'],
)
# Adversarial weight perturbation.
OPTIM_WRAPPERS = _root.Registry(
    'optim_wrapper',
    parent=_root.OPTIM_WRAPPERS,
    locations=['m2at_mm.optim'],
)
# CIFAR with a held-out validation split, and the embedded digits.
DATASETS = _root.Registry(
    'dataset',
    parent=_root.DATASETS,
    locations=['m2at_mm.datasets'],
)
# What joins a dataset's samples to a batch.
FUNCTIONS = _root.Registry(
    'function',
    parent=_root.FUNCTIONS,
    locations=['m2at_mm.datasets'],
)
# Attacks and training methods.
TASK_UTILS = _root.Registry(
    'task util',
    parent=_root.TASK_UTILS,
    locations=['m2at_mm.attacks', 'm2at_mm.methods'],
)


def type_name(kind: Any) -> str:
    """The name of a type that is written as a class or as a string.

    Args:
        kind (type | str): Like ``CIFAR10``, ``'CIFAR10'`` or
            ``'mmpretrain.CIFAR10'``.
    """
    name = kind.__name__ if isinstance(kind, type) else str(kind)
    return name.split('.')[-1]
