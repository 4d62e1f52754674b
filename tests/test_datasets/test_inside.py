"""Datasets inside of others, against what the outer one gives."""

from collections.abc import Callable
from typing import Any

import pytest
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.datasets import KFoldDataset
from mmpretrain.registry import DATASETS
from torch.utils.data import Subset

from m2at_mm.datasets import Digits, inside

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
