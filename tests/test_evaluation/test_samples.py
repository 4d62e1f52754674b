import random
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_support import samples_of
from mmpretrain.structures import DataSample
from torch.utils.data import ConcatDataset, Dataset, Subset

from m2at_mm.evaluation import Samples
from m2at_mm.evaluation.samples import fingerprints
from m2at_mm.structures import BatchLabels

IMAGES = torch.rand(5, 3, 4, 4)
LABELS = torch.tensor([4, 3, 2, 1, 0])


def _whole_batches() -> Samples:
    def joined(items: Any) -> dict:
        labels = BatchLabels(LABELS[items])
        return dict(inputs=IMAGES[items], data_samples=labels)

    return Samples(range(5), lambda data, training: data, joined)


@pytest.mark.parametrize('whole', [False, True], ids=['samples', 'whole'])
def test_batches_are_at_their_positions(whole: bool) -> None:
    samples = _whole_batches() if whole else samples_of(IMAGES, LABELS)
    assert len(samples) == 5
    [(first, labels), (second, _)] = samples.batches([[3, 0], [4]])
    assert torch.equal(first, IMAGES[[3, 0]])
    assert labels.tolist() == [1, 4]
    assert torch.equal(second, IMAGES[[4]])


@pytest.mark.parametrize('number', [0, -1, 6])
def test_wrong_number_of_samples(number: int) -> None:
    with pytest.raises(ValueError, match=f'num_samples={number} .* 1 to 5'):
        samples_of(IMAGES, LABELS, number)


@pytest.mark.parametrize('label', [None, [0, 1]], ids=['none', 'two'])
def test_image_without_exactly_one_label(label: list[int] | None) -> None:
    sample = DataSample()
    if label is not None:
        sample.set_gt_label(label)
    batch = dict(inputs=IMAGES[:1], data_samples=[sample])
    samples = Samples([0], lambda data, training: data, lambda items: batch)
    with pytest.raises(ValueError, match='must have one gt_label'):
        next(iter(samples.batches([[0]])))


class Sorted(Dataset):
    """Labelled images in the order of their classes, as folders give them."""

    metainfo: dict = {}

    def __init__(self, counts: list[int], unlabelled: int = -1) -> None:
        self.labels = np.repeat(np.arange(len(counts)), counts).tolist()
        self.unlabelled = unlabelled

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        info = self.get_data_info(index)
        noise = [random.random(), np.random.random(), float(torch.rand(()))]
        return dict(info, inputs=torch.tensor(noise).view(3, 1, 1))

    def get_data_info(self, index: int) -> dict:
        if index == self.unlabelled:
            return {}
        return dict(gt_label=self.labels[index])


def collate(items: list) -> dict:
    samples = [DataSample().set_gt_label(one['gt_label']) for one in items]
    inputs = torch.stack([one['inputs'] for one in items])
    return dict(inputs=inputs, data_samples=samples)


def read(dataset: Any, num: int | None = None, **settings: Any) -> Samples:
    return Samples(dataset, lambda data, _: data, collate, num, **settings)


COUNTS = [40, 25, 5, 30]


@pytest.mark.parametrize('num', [1, 2, 4, 8, 20, 50, 99, 100])
def test_a_part_is_spread_over_the_classes(num: int) -> None:
    samples = read(Sorted(COUNTS), num)
    again = read(Sorted(COUNTS), num).positions
    assert np.array_equal(samples.positions, again)
    assert (np.diff(samples.positions) > 0).all()
    (batch,) = samples.batches([[*range(num)]])
    counts = np.bincount(batch[1], minlength=4)
    # By hand: a turn gives each class that still has images one of them.
    expected = np.zeros(4, dtype=int)
    while expected.sum() + (expected < COUNTS).sum() <= num < 100:
        expected += expected < COUNTS
    more = counts - expected if num < 100 else counts - COUNTS
    assert ((more >= 0) & (more <= 1)).all()


def test_the_first_images_by_name() -> None:
    first = read(Sorted(COUNTS), 7, subset='first')
    assert first.positions.tolist() == [*range(7)]
    with pytest.raises(ValueError, match="subset='last' is unknown"):
        read(Sorted(COUNTS), 7, subset='last')


def test_parts_of_wrapped_datasets_are_spread() -> None:
    """The tests of labels_of() show the same for other wrappers."""
    half = Subset(Sorted(COUNTS), range(0, 100, 2))
    dataset = ConcatDataset([Sorted(COUNTS), half])
    samples = read(dataset, 12)
    (batch,) = samples.batches([[*range(12)]])
    assert np.bincount(batch[1]).tolist() == 4 * [3]
    assert samples.positions.max() >= 100


def test_pictures_begin_with_different_classes() -> None:
    for samples in (read(Sorted(COUNTS)), read(Sorted(COUNTS), 60)):
        ((_, labels),) = samples.batches([samples.spread(8)])
        assert len(set(labels[:4].tolist())) == 4
        assert len(set(labels[4:].tolist())) == 4


@pytest.mark.parametrize('num', [10, None], ids=['part', 'all'])
def test_unlabelled_images_are_refused(num: int | None) -> None:
    with pytest.raises(ValueError, match='must have one gt_label'):
        read(Sorted(COUNTS, unlabelled=60), num)


@pytest.mark.parametrize('workers', [0, 1])
def test_random_transforms_draw_the_same_for_an_image(workers: int) -> None:
    samples = read(Sorted(COUNTS), 20, num_workers=workers)
    assert samples.draws() and not samples_of(IMAGES, LABELS).draws()
    ((whole, _),) = samples.batches([[*range(20)]])
    again = [one for one, _ in samples.batches([[19, 3], [7]])]
    assert torch.equal(torch.cat(again), whole[[19, 3, 7]])
    assert len(set(whole[:, 0].flatten().tolist())) == 20
    ((other, _),) = samples.batches([[*range(20)]], seed=1)
    assert not (other == whole).any()


def test_fingerprints_tell_images_apart() -> None:
    images = torch.rand(4, 3, 5, 5)
    images[3] = images[0]
    found = fingerprints(images.contiguous(memory_format=torch.channels_last))
    assert len(set(found.tolist())) == 3 and found[3] == found[0]
    changed = images.clone()
    changed[1, 2, 4, 4] += 1e-6
    same = fingerprints(changed) == found
    assert same.tolist() == [True, False, True, True]
