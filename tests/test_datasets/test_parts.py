"""The digits, splits, and datasets inside of others."""

import itertools
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.datasets import KFoldDataset
from mmpretrain.registry import DATASETS
from pytest import MonkeyPatch
from sklearn.datasets import load_digits
from torch.utils.data import Subset

from m2at_mm.datasets import Digits, inside
from m2at_mm.datasets.splits import round_robin, stratified_split

RNG = np.random.RandomState(0)
LABELS = {
    'sorted': np.repeat(np.arange(4), 10),
    'in-turns': np.tile(np.arange(4), 10),
    'shuffled': RNG.permutation(np.repeat(np.arange(4), 10)),
    'unequal': RNG.permutation(np.repeat(np.arange(4), [9, 12, 10, 30])),
    'gap': RNG.permutation(np.repeat([0, 2, 7], 10)),
}


@pytest.mark.parametrize('name', LABELS)
@pytest.mark.parametrize('sizes', [[], [3], [2, 4], [1, 1, 5]], ids=str)
def test_parts_are_disjoint_and_complete(name: str, sizes: list[int]) -> None:
    labels = LABELS[name]

    parts = stratified_split(labels, sizes)

    assert len(parts) == len(sizes) + 1
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    for part, size in zip(parts, sizes):
        _, counts = np.unique(labels[part], return_counts=True)
        assert counts.tolist() == [size] * len(np.unique(labels))
    for part in parts:
        assert (np.diff(part) > 0).all()


def test_nth_sample_of_a_class_stays_in_its_part() -> None:
    """However the classes are interleaved, as in files and in folders."""
    members = []
    for name in ('sorted', 'in-turns', 'shuffled'):
        labels = LABELS[name]
        rank = [(labels[:i] == k).sum() for i, k in enumerate(labels)]
        of_class = [*zip(labels.tolist(), rank)]
        parts = stratified_split(labels, [3, 2])
        members.append([{of_class[k] for k in part} for part in parts])
    assert members[0] == members[1] == members[2]


def test_split_is_random_but_fixed() -> None:
    np.random.seed(1)
    first = stratified_split(LABELS['sorted'], [5])
    np.random.seed(2)
    again = stratified_split(LABELS['sorted'], [5])
    assert all((a == b).all() for a, b in zip(first, again))
    # Not simply the first five of each class.
    assert (first[0] % 10).max() > 4


@pytest.mark.parametrize('name', LABELS)
def test_round_robin_takes_turns(name: str) -> None:
    labels = LABELS[name]
    part = np.flatnonzero(RNG.rand(len(labels)) < 0.8)

    ordered = round_robin(labels, part)

    waiting = [part[labels[part] == k].tolist() for k in np.unique(labels)]
    turns = itertools.chain(*itertools.zip_longest(*waiting))
    assert ordered.tolist() == [one for one in turns if one is not None]
    assert round_robin(labels, part[:0]).tolist() == []


PACK = dict(type='PackInputs')
DIGITS = dict(type='m2at_mm.Digits', indices=20, pipeline=[PACK])


def cut_off(data: Any) -> Any:
    """What MMEngine's num_batch_per_epoch makes of a dataset."""
    loader = dict(dataset=data, batch_size=4, num_batch_per_epoch=3)
    sampler = dict(type='DefaultSampler', shuffle=False)
    return Runner.build_dataloader(dict(loader, sampler=sampler)).dataset


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    'bare': lambda data: data,
    'repeat': lambda data: RepeatDataset(data, times=2),
    'concatenate': lambda data: ConcatDataset([data, data]),
    'balance': lambda data: ClassBalancedDataset(data, oversample_thr=1e-3),
    'balance by repeating': lambda data: ClassBalancedDataset(data, 0.5),
    # It takes nothing but a config.
    'fold': lambda data: KFoldDataset(dict(DIGITS), 1, num_splits=4, seed=0),
    'choose': lambda data: Subset(data, [3, 1, 7]),
    'choose from a choice': lambda data: Subset(Subset(data, [3, 1, 7]), [2]),
    'choose from two': lambda data: Subset(
        ConcatDataset([data, data]), [3, 21]
    ),
    'cut off': cut_off,
}


@pytest.fixture(autouse=True)
def scope() -> Any:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


@pytest.mark.parametrize('name', WRAPPERS)
def test_labels_are_known_without_reading_the_samples(name: str) -> None:
    dataset = WRAPPERS[name](DATASETS.build(DIGITS))
    samples = [dataset[k]['data_samples'] for k in range(len(dataset))]
    read = [int(sample.gt_label) for sample in samples]
    labels = inside.labels_of(dataset)
    assert labels is not None and labels.tolist() == read
    *_, innermost = inside.inner_datasets(dataset)
    assert isinstance(innermost, Digits)
    parts, found = zip(*inside.labelled_datasets(dataset))
    assert {int(k) for one in found for k in one} == set(read)
    assert all(isinstance(part, Digits) for part in parts)
    assert all(one.dtype.kind == 'i' for one in found)


class ConcatAny(ConcatDataset):
    """Of any two datasets; MMEngine's asks for the same classes."""

    def __init__(self, *datasets: Any) -> None:
        super(ConcatDataset, self).__init__(datasets)


class Unlabelled:
    def get_gt_labels(self) -> None:
        raise KeyError('gt_label')


def test_a_dataset_without_labels_tells_none() -> None:
    for dataset in ([1, 2], Subset([1, 2], [0]), Unlabelled()):
        assert list(inside.labelled_datasets(dataset)) == []
    with pytest.raises(KeyError):
        inside.labels_of(Unlabelled())
    joined = ConcatAny([1], DATASETS.build(DIGITS))
    ((_, labels),) = inside.labelled_datasets(joined)
    assert len(labels) == 20 and inside.labels_of(joined) is None


SPLITS = {'train': 1297, 'val': 200, 'test': 300}


@cache
def loaded(split: str) -> tuple[np.ndarray, np.ndarray]:
    samples = [*Digits(split=split)]
    images = np.stack([sample['img'] for sample in samples])
    return images, np.array([sample['gt_label'] for sample in samples])


@pytest.mark.parametrize('split', SPLITS)
def test_shapes_and_class_counts(split: str) -> None:
    images, labels = loaded(split)
    assert images.shape == (SPLITS[split], 32, 32, 3)
    assert images.dtype == np.uint8
    assert images.min() == 0 and images.max() == 255
    assert (images == images[..., :1]).all()
    if split == 'train':
        assert np.bincount(labels).min() >= 174 - 50
    else:
        assert (np.bincount(labels) == SPLITS[split] // 10).all()
    first = Digits(split=split, indices=95).get_gt_labels()
    assert first[:20].tolist() == [*range(10)] * 2
    assert set(np.bincount(first)) == {9, 10}


def test_splits_are_scikit_learns_digits_each_once() -> None:
    # Upscaled by torch instead of OpenCV.
    digits = load_digits()
    small = torch.from_numpy(digits.images)[:, None] * 255 / 16
    size = dict(scale_factor=4, mode='bicubic')
    reference = torch.nn.functional.interpolate(small, **size)
    every = reference.clamp(0, 255).flatten(1).numpy()
    seen = []
    for split in SPLITS:
        images, labels = loaded(split)
        flat = images[..., 0].reshape(len(images), -1).astype(np.float64)
        # Nearest reference by |a - b|^2 = |a|^2 - 2 a.b + |b|^2.
        match = ((every**2).sum(1) - 2 * flat @ every.T).argmin(1)
        # One grey level off is for the rounding.
        assert np.abs(every[match] - flat).max() <= 1
        assert (digits.target[match] == labels).all()
        seen += match.tolist()
    assert sorted(seen) == list(range(1797))


def test_builds_from_config_with_pipeline_and_lazy_init() -> None:
    pack = dict(type='PackInputs')
    cfg = dict(split='test', test_mode=True, lazy_init=True, pipeline=[pack])
    dataset = ROOT_DATASETS.build(dict(cfg, type='m2at_mm.Digits'))
    assert not dataset._fully_initialized
    assert dataset.metainfo['classes'] == tuple('0123456789')
    letters = Digits('val', dict(classes=[*'abcdefghij']), lazy_init=True)
    assert letters.CLASSES == [*'abcdefghij']
    dataset.full_init()
    sample = dataset[3]
    assert sample['inputs'].shape == (3, 32, 32)
    assert sample['data_samples'].gt_label.item() == 3
    assert 'test' in repr(dataset)


def test_no_scikit_learn(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(ImportError, match=r'm2at_mm\[demo\]'):
        Digits()
