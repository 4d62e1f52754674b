from __future__ import annotations

from typing import Optional

import pytest
import torch
from evaluation_support import samples_of
from mmpretrain.structures import DataSample

from m2at_mm.evaluation import Samples
from m2at_mm.structures import BatchLabels

IMAGES = torch.rand(5, 3, 4, 4)
LABELS = torch.tensor([4, 3, 2, 1, 0])


def test_batches_are_at_their_positions() -> None:
    samples = samples_of(IMAGES, LABELS)
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
def test_image_without_exactly_one_label(label: Optional[list[int]]) -> None:
    sample = DataSample()
    if label is not None:
        sample.set_gt_label(label)
    samples = Samples(
        [0],
        lambda data, training: data,
        lambda items: dict(inputs=IMAGES[:1], data_samples=[sample]),
    )
    with pytest.raises(ValueError, match='must have one gt_label'):
        next(iter(samples.batches([[0]])))


def test_labels_in_one_object() -> None:
    samples = Samples(
        range(5),
        lambda data, training: data,
        lambda items: dict(
            inputs=IMAGES[items], data_samples=BatchLabels(LABELS[items])
        ),
    )
    [(images, labels)] = samples.batches([[3, 0]])
    assert torch.equal(images, IMAGES[[3, 0]])
    assert labels.tolist() == [1, 4]
