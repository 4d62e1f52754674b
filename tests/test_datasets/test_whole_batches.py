import copy
import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import make_folder, make_official
from mmcv.transforms import Compose
from mmengine.dataset import default_collate
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner
from mmpretrain.registry import TRANSFORMS
from pytest import MonkeyPatch
from torch.utils.data import DataLoader, Subset

from m2at_mm.datasets import CIFAR10, Digits, whole_batch_collate
from m2at_mm.datasets.seeded_pipeline import SeededPipeline
from m2at_mm.structures import BatchLabels

PACKED = [dict(type='PackInputs')]
INDICES = [7, 0, 39, 7]


SETTINGS = dict(indices=40, pipeline=PACKED, whole_batches=True)
CONFIG = dict(type='m2at_mm.Digits', **SETTINGS)


def digits(**settings: Any) -> Digits:
    return Digits(**SETTINGS | settings)


def assert_same(batch: dict, dataset: Any, indices: list[int]) -> None:
    """A whole batch is what the samples make, one after the other."""
    expected = default_collate([dataset[index] for index in indices])
    assert batch['inputs'].dtype == torch.uint8
    assert torch.equal(batch['inputs'], expected['inputs'])
    assert isinstance(batch['data_samples'], BatchLabels)
    labels = [int(sample.gt_label) for sample in expected['data_samples']]
    assert batch['data_samples'].labels.dtype == torch.int64
    assert batch['data_samples'].labels.tolist() == labels
    assert batch['data_samples'].scores is None


@pytest.mark.parametrize('serialized', [True, False])
def test_a_batch_is_that_of_the_samples(serialized: bool) -> None:
    dataset = digits(serialize_data=serialized)
    assert len(dataset) == 40
    states = torch.get_rng_state(), np.random.get_state()
    batch = dataset.__getitems__(INDICES)
    # Nothing was drawn.
    assert torch.equal(states[0], torch.get_rng_state())
    np.testing.assert_equal(np.random.get_state(), states[1])
    assert_same(batch, dataset, INDICES)
    labels = [int(dataset[i]['data_samples'].gt_label) for i in range(40)]
    assert dataset.get_gt_labels().tolist() == labels
    # Without a pipeline, too, and off by default.
    assert_same(digits(pipeline=[]).__getitems__(INDICES), dataset, INDICES)
    samples = Digits(indices=40, pipeline=PACKED).__getitems__([3, 4])
    assert [int(one['data_samples'].gt_label) for one in samples] == [3, 4]


@pytest.mark.parametrize('serialized', [True, False])
@pytest.mark.parametrize('make', [make_folder, make_official])
def test_cifar(
    make: Any, serialized: bool, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    make(tmp_path, *[monkeypatch] * (make is make_official))
    settings = dict(val_size=10, download=False, lazy_init=True)
    settings |= dict(serialize_data=serialized, indices=None)
    dataset = CIFAR10(str(tmp_path), **SETTINGS | settings)
    batch = dataset.__getitems__(INDICES)
    assert len(dataset) == 50
    assert_same(batch, dataset, INDICES)
    batch['inputs'].zero_()  # nobody else's pixels
    assert_same(dataset.__getitems__(INDICES), dataset, INDICES)


@pytest.mark.parametrize('workers', [0, 2])
def test_every_sample_comes_once_from_a_built_dataloader(workers: int) -> None:
    cfg = dict(batch_size=16, num_workers=workers, dataset=CONFIG)
    cfg['sampler'] = dict(type='DefaultSampler', shuffle=True)
    cfg['collate_fn'] = dict(type='m2at_mm.whole_batch_collate')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        loader = Runner.build_dataloader(cfg)
    # What RNGStateHook does before the workers start.
    pipeline = SeededPipeline(loader.dataset.pipeline, 0, torch.zeros(()))
    loader.dataset.pipeline = pipeline
    order = list(loader.sampler)
    batches = list(loader)
    assert [len(batch['inputs']) for batch in batches] == [16, 16, 8]
    for number, batch in enumerate(batches):
        part = order[16 * number : 16 * (number + 1)]
        assert_same(batch, loader.dataset, part)


def test_subset_passes_whole_batches_on() -> None:
    subset = Subset(digits(), [5, 6, 7])
    loader = DataLoader(subset, 3, collate_fn=whole_batch_collate)
    [batch] = loader
    assert_same(batch, digits(), [5, 6, 7])


BALANCED = dict(type='ClassBalancedDataset', oversample_thr=1e-3)
FOLD = dict(type='KFoldDataset', num_splits=2, fold=0)


WRAPPERS = [
    (dict(type='ConcatDataset', datasets=[CONFIG] * 2), 80),
    (dict(type='RepeatDataset', dataset=CONFIG, times=3), 120),
    (dict(BALANCED, dataset=CONFIG), 40),
    (dict(FOLD, dataset=CONFIG), 20),
]


@pytest.mark.parametrize(('settings', 'length'), WRAPPERS)
def test_wrappers_give_samples(settings: dict, length: int) -> None:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        dataset = DATASETS.build(copy.deepcopy(settings))
    assert len(dataset) == length
    loader = DataLoader(dataset, batch_size=4, collate_fn=whole_batch_collate)
    first = next(iter(loader))
    expected = default_collate([dataset[index] for index in range(4)])
    assert torch.equal(first['inputs'], expected['inputs'])
    for one, other in zip(first['data_samples'], expected['data_samples']):
        assert one.gt_label == other.gt_label


CROPPED = [dict(type='RandomCrop', crop_size=32, padding=4), *PACKED]
MESSAGE = r"\['RandomCrop', 'PackInputs'\]: .*data_preprocessor\.augment"


@pytest.mark.parametrize('seeded', [True, False])
def test_transforms_are_refused(seeded: bool) -> None:
    """Also of a later epoch: mmpretrain's SwitchRecipeHook sets a pipeline."""
    with pytest.raises(ValueError, match=MESSAGE):
        digits(pipeline=CROPPED)
    assert len(digits(pipeline=CROPPED, whole_batches=False)) == 40
    dataset = digits()
    pipeline = Compose([TRANSFORMS.build(one) for one in CROPPED])
    if seeded:
        pipeline = SeededPipeline(pipeline, 0, torch.zeros(()))
    dataset.pipeline = pipeline
    with pytest.raises(ValueError, match=MESSAGE):
        dataset.__getitems__([0])


def test_parts_of_a_dataset() -> None:
    dataset = digits(serialize_data=False)
    part = dataset.get_subset([8, 9])
    assert part.__getitems__([1])['data_samples'].labels.tolist() == [9]
    dataset.get_subset_(2)
    assert dataset.__getitems__([1])['data_samples'].labels.tolist() == [1]


def test_a_copied_part_keeps_nothing_of_earlier_ones() -> None:
    dataset = digits()
    pipeline = weakref.ref(dataset.pipeline)
    assert dataset.get_subset([0]).pipeline is not dataset.pipeline
    del dataset
    gc.collect()
    assert pipeline() is None  # with it, its address was remembered
