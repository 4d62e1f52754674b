"""Parts of a dataset: splits, and datasets inside of others."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.datasets import KFoldDataset
from mmpretrain.registry import DATASETS
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
