from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module

import mmengine.registry
import pytest
from mmengine.model import is_model_wrapper
from mmengine.registry import Registry
from torch import nn

from m2at_mm import registry

REGISTRIES = {
    name: value
    for name, value in vars(registry).items()
    if isinstance(value, Registry)
}
# Our public types, and the registry that a config finds each in.
TYPES = {
    'AdversarialClassifier': 'MODELS',
    'AdversarialDataPreprocessor': 'MODELS',
    'AdversarialDistributedDataParallel': 'MODEL_WRAPPERS',
    'M2AT': 'TASK_UTILS',
    'PGDAT': 'TASK_UTILS',
    'Standard': 'TASK_UTILS',
    'TRADES': 'TASK_UTILS',
    'MART': 'TASK_UTILS',
    'AVmixup': 'TASK_UTILS',
    'IAT': 'TASK_UTILS',
    'FreeAT': 'TASK_UTILS',
    'NFGSM': 'TASK_UTILS',
    'AWPOptimWrapper': 'OPTIM_WRAPPERS',
    'AWPAmpOptimWrapper': 'OPTIM_WRAPPERS',
    'RepeatedBatchTrainLoop': 'LOOPS',
    'ResumableEpochTrainLoop': 'LOOPS',
    'PreActResNet_CIFAR': 'MODELS',
    'WideResNet_CIFAR': 'MODELS',
    'PGD': 'TASK_UTILS',
    'FGSM': 'TASK_UTILS',
    'AutoAttack': 'TASK_UTILS',
    'Transfer': 'TASK_UTILS',
    'RobustnessTestLoop': 'LOOPS',
    'RobustAccuracy': 'METRICS',
    'AdversarialVisualizationHook': 'HOOKS',
    'AttackScheduleHook': 'HOOKS',
    'CollapseGuardHook': 'HOOKS',
    'InputCheckHook': 'HOOKS',
    'PreemptionHook': 'HOOKS',
    'RNGStateHook': 'HOOKS',
    'RobustOverfittingHook': 'HOOKS',
    'RuntimeInfoHook': 'HOOKS',
    'SafeCheckpointHook': 'HOOKS',
    'SyncBuffersHook': 'HOOKS',
    'CIFAR10': 'DATASETS',
    'CIFAR100': 'DATASETS',
    'Digits': 'DATASETS',
    'whole_batch_collate': 'FUNCTIONS',
}
# Looks types up as the Runner does, where nobody has imported m2at_mm.
LOOK_UP = """
import importlib, json, sys
from mmengine.registry import DefaultScope

registries = importlib.import_module(sys.argv[1])
root = importlib.import_module('mmengine.registry')
types = json.loads(sys.argv[2])
assert not any(name.startswith('m2at_mm') for name in sys.modules)
with DefaultScope.overwrite_default_scope('mmpretrain'):
    found = {
        # mmpretrain has no FUNCTIONS of its own.
        name: getattr(
            registries, kind, getattr(root, kind)
        ).get('m2at_mm.' + name)
        for name, kind in types.items()
    }
print(json.dumps({
    name: cls and cls.__module__ + '.' + cls.__name__
    for name, cls in found.items()
}))
"""


def test_table_above_is_complete() -> None:
    for name, child in REGISTRIES.items():
        child.import_from_location()
        expected = {cls for cls, kind in TYPES.items() if kind == name}
        assert set(child.module_dict) == expected


@pytest.mark.parametrize('name', REGISTRIES)
def test_parent_is_the_root_of_mmengine(name: str) -> None:
    child, root = REGISTRIES[name], getattr(mmengine.registry, name)

    assert child.parent is root
    assert child.scope == 'm2at_mm'
    assert child.name == root.name
    assert root.children['m2at_mm'] is child


@pytest.mark.parametrize('name', REGISTRIES)
def test_locations_import_and_hold_the_types(name: str) -> None:
    child = REGISTRIES[name]
    assert child._locations

    modules = tuple(
        import_module(place).__name__ for place in child._locations
    )
    child.import_from_location()

    assert modules == tuple(child._locations)
    for cls in child.module_dict.values():
        assert cls.__module__.startswith(modules)


@pytest.mark.parametrize(
    'source', ['mmengine.registry', 'mmpretrain.registry']
)
def test_types_are_found_without_an_import(source: str) -> None:
    process = subprocess.run(
        [sys.executable, '-c', LOOK_UP, source, json.dumps(TYPES)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr

    found = json.loads(process.stdout.splitlines()[-1])
    assert found.keys() == TYPES.keys()
    for name, path in found.items():
        assert path is not None, name
        assert path.startswith('m2at_mm.') and path.endswith(f'.{name}')


def test_classifier_is_not_taken_for_a_distributed_wrapper() -> None:
    """Else the Runner would neither move it to the GPU nor wrap it."""
    cls = registry.MODELS.get('AdversarialClassifier')

    assert cls is not None
    assert cls not in registry.MODEL_WRAPPERS.module_dict.values()
    model = cls.__new__(cls)
    nn.Module.__init__(model)
    assert not is_model_wrapper(model)


def test_stock_runs_import_nothing_of_this_package() -> None:
    code = (
        'import sys, mmpretrain.models, mmpretrain.datasets, mmengine.runner; '
        'sys.exit(any(m.split(".")[0] == "m2at_mm" for m in sys.modules))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True)
    assert done.returncode == 0, done.stderr
