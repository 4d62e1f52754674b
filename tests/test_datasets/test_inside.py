"""Datasets inside of others, against what the outer one gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mmengine.dataset import (
    ClassBalancedDataset,
    ConcatDataset,
    RepeatDataset,
)
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.datasets import KFoldDataset
from mmpretrain.registry import DATASETS
from torch.utils.data import Subset

from m2at_mm.datasets import Digits
from m2at_mm.datasets.inside import (
    inner_datasets,
    labelled_datasets,
    labels_of,
)

WRAPPERS: dict[str, Callable[[Any], Any]] = {
    'bare': lambda data: data,
    'repeat': lambda data: RepeatDataset(data, times=2),
    'concatenate': lambda data: ConcatDataset([data, data]),
    'balance': lambda data: ClassBalancedDataset(data, oversample_thr=1e-3),
    'fold': lambda data: fold(fold=1, num_splits=4, seed=0),
    'choose': lambda data: Subset(data, [3, 1, 7]),
    'choose from a choice': lambda data: Subset(Subset(data, [3, 1, 7]), [2]),
    'choose from two': lambda data: Subset(
        ConcatDataset([data, data]), [3, 21]
    ),
}


DIGITS = dict(
    type='m2at_mm.Digits', indices=20, pipeline=[dict(type='PackInputs')]
)


def fold(**settings: Any) -> KFoldDataset:
    """mmpretrain's takes nothing but a config."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return KFoldDataset(dict(DIGITS), **settings)


def digits() -> Digits:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return DATASETS.build(DIGITS)


@pytest.mark.parametrize('name', WRAPPERS)
def test_labels_are_those_of_the_samples(name: str) -> None:
    dataset = WRAPPERS[name](digits())
    given = {
        int(dataset[k]['data_samples'].gt_label) for k in range(len(dataset))
    }
    found = [(part, labels) for part, labels in labelled_datasets(dataset)]
    assert {int(k) for _, labels in found for k in labels} == given
    assert all(isinstance(part, Digits) for part, _ in found)
    *_, innermost = inner_datasets(dataset)
    assert isinstance(innermost, Digits)


def test_a_dataset_without_labels_tells_none() -> None:
    assert list(labelled_datasets([1, 2])) == []
    assert list(labelled_datasets(Subset([1, 2], [0]))) == []
    ((_, labels),) = labelled_datasets(ConcatDatasetOf([1], digits()))
    assert len(labels) == 20


class ConcatDatasetOf(ConcatDataset):
    """Of any two datasets; MMEngine's asks for the same classes."""

    def __init__(self, *datasets: Any) -> None:
        super(ConcatDataset, self).__init__(datasets)


def test_labels_are_integers() -> None:
    ((_, labels),) = labelled_datasets(Subset(digits(), [2, 0]))
    assert labels.dtype.kind == 'i' and isinstance(labels, np.ndarray)


@pytest.mark.parametrize(
    'name', [*WRAPPERS, 'cut off', 'balance by repeating']
)
def test_each_sample_s_label_is_known_without_reading_it(name: str) -> None:
    more: dict[str, Callable[[Any], Any]] = {
        # What MMEngine's num_batch_per_epoch makes of a dataset.
        'cut off': lambda data: (
            Runner.build_dataloader(
                dict(
                    dataset=data,
                    batch_size=4,
                    sampler=dict(type='DefaultSampler', shuffle=False),
                    num_batch_per_epoch=3,
                )
            ).dataset
        ),
        'balance by repeating': lambda data: ClassBalancedDataset(
            data, oversample_thr=0.5
        ),
    }
    dataset = {**WRAPPERS, **more}[name](digits())
    read = [
        int(dataset[k]['data_samples'].gt_label) for k in range(len(dataset))
    ]
    labels = labels_of(dataset)
    assert labels is not None and labels.tolist() == read


def test_unlabelled_images_have_no_labels_to_check() -> None:
    class Unlabelled:
        def get_gt_labels(self) -> None:
            raise KeyError('gt_label')

    assert list(labelled_datasets(Unlabelled())) == []
    with pytest.raises(KeyError):
        labels_of(Unlabelled())
