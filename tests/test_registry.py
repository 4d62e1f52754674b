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

# Our public types by the registry that a config finds them in.
NAMES = {
    'MODELS': 'AdversarialClassifier AdversarialDataPreprocessor '
    'PreActResNet_CIFAR WideResNet_CIFAR',
    'MODEL_WRAPPERS': 'AdversarialDistributedDataParallel',
    'TASK_UTILS': 'M2AT PGDAT Standard TRADES MART AVmixup IAT FreeAT '
    'PGD FGSM NFGSM AutoAttack Transfer SecondOpinion TorchAttacks Foolbox',
    'RUNNERS': 'RecipeRunner',
    'OPTIM_WRAPPERS': 'AWPOptimWrapper AWPAmpOptimWrapper',
    'LOOPS': 'RepeatedBatchTrainLoop ResumableEpochTrainLoop '
    'RobustnessTestLoop',
    'METRICS': 'RobustAccuracy',
    'HOOKS': 'AdversarialVisualizationHook AttackScheduleHook '
    'AveragedWeightsHook CollapseGuardHook InputCheckHook PreemptionHook '
    'RNGStateHook RobustOverfittingHook RuntimeInfoHook SafeCheckpointHook '
    'SyncBuffersHook',
    'DATASETS': 'CIFAR10 CIFAR100 Digits GeneratedImages OriginalAndGenerated',
    'DATA_SAMPLERS': 'FixedShareBatchSampler',
    'FUNCTIONS': 'whole_batch_collate',
}
TYPES = {one: kind for kind in NAMES for one in NAMES[kind].split()}
# Looks types up as the Runner does, where nobody has imported m2at_mm.
LOOK_UP = """
import importlib, json, sys
from mmengine.registry import DefaultScope

registries = importlib.import_module(sys.argv[1])
root = importlib.import_module('mmengine.registry')
types = json.loads(sys.argv[2])
assert not any(name.startswith('m2at_mm') for name in sys.modules)
with DefaultScope.overwrite_default_scope('mmpretrain'):
    for name, kind in types.items():
        # mmpretrain has no FUNCTIONS of its own.
        registry = getattr(registries, kind, getattr(root, kind))
        cls = registry.get('m2at_mm.' + name)
        types[name] = cls and cls.__module__ + '.' + cls.__name__
print(json.dumps(types))
"""


def test_no_registry_is_left_out() -> None:
    every = vars(registry).items()
    assert {k for k, one in every if isinstance(one, Registry)} == {*NAMES}


@pytest.mark.parametrize('name', NAMES)
def test_registry(name: str) -> None:
    """A child of MMEngine's root that imports and holds our types."""
    child, root = (getattr(one, name) for one in (registry, mmengine.registry))
    assert child.parent is root and root.children['m2at_mm'] is child
    assert (child.scope, child.name) == ('m2at_mm', root.name)
    places = tuple(child._locations)
    assert tuple(import_module(place).__name__ for place in places) == places
    child.import_from_location()
    assert set(child.module_dict) == set(NAMES[name].split())
    for cls in child.module_dict.values():
        assert cls.__module__.startswith(places)


@pytest.mark.parametrize('source', ['mmengine', 'mmpretrain'])
def test_types_are_found_without_an_import(source: str) -> None:
    words = [sys.executable, '-c', LOOK_UP, f'{source}.registry']
    words.append(json.dumps(TYPES))
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == TYPES.keys()
    for name, path in found.items():
        assert path and path.startswith('m2at_mm.'), name
        assert path.endswith(f'.{name}')


def test_classifier_is_not_taken_for_a_distributed_wrapper() -> None:
    """Else the Runner would neither move it to the GPU nor wrap it."""
    cls = registry.MODELS.get('AdversarialClassifier')
    assert cls is not None
    assert cls not in registry.MODEL_WRAPPERS.module_dict.values()
    model = cls.__new__(cls)
    nn.Module.__init__(model)
    assert not is_model_wrapper(model)
