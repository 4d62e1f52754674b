"""Against mmpretrain's transforms, offset by offset and as a distribution."""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from device_free import Watch
from mmcv.transforms import RandomFlip
from mmpretrain.datasets.transforms import RandomCrop
from scipy.stats import chi2_contingency, chisquare
from torch import Tensor

from m2at_mm.data_preprocessors import (
    AdversarialDataPreprocessor,
    RandomCropAndFlip,
    crop_and_flip,
)

PADDING, LAST = 4, torch.channels_last
OFFSETS = range(2 * PADDING + 1)
DRAWS = list(product(OFFSETS, OFFSETS, [False, True]))  # 9 x 9 x 2


@pytest.fixture
def image() -> np.ndarray:
    """An oblong one without black pixels, so that all crops differ."""
    return np.random.RandomState(0).randint(1, 256, (32, 30, 3), np.uint8)


def to_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def stock(image: np.ndarray, top: int, left: int, flip: bool) -> Tensor:
    """mmpretrain's transforms with given draws."""
    height, width = image.shape[:2]
    crop = RandomCrop(crop_size=(height, width), padding=PADDING)
    crop.rand_crop_params = lambda img: (top, left, height, width)
    data = crop.transform(dict(img=image))
    data = RandomFlip(prob=float(flip)).transform(data)
    return to_tensor(data['img'])


@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32], ids=str)
@pytest.mark.parametrize('layout', [torch.contiguous_format, LAST], ids=str)
def test_draw_gives_a_stock_image(image: Any, dtype: Any, layout: Any) -> None:
    tops, lefts, flips = (torch.tensor(column) for column in zip(*DRAWS))
    batch = to_tensor(image).repeat(len(DRAWS), 1, 1, 1).to(dtype)
    batch = batch.contiguous(memory_format=layout)
    before = batch.clone()

    found = crop_and_flip(batch, tops, lefts, flips, PADDING)

    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=LAST)
    assert torch.equal(batch, before)
    for one, draw in zip(found, DRAWS):
        assert torch.equal(one, stock(image, *draw).to(dtype)), draw


def counts(draw: Callable[[], Iterable[Tensor]], number: int) -> Counter:
    found: Counter = Counter()
    while found.total() < number:
        found.update(image.contiguous().numpy().tobytes() for image in draw())
    return found


def test_distribution_is_that_of_the_stock_transforms(image: Any) -> None:
    number = 60 * len(DRAWS)
    augment = RandomCropAndFlip(crop_padding=PADDING, flip_prob=0.5)
    crop = RandomCrop(crop_size=image.shape[:2], padding=PADDING)
    flip = RandomFlip(prob=0.5, direction='horizontal')
    batch = to_tensor(image).repeat(number, 1, 1, 1)
    torch.manual_seed(0)
    np.random.seed(0)

    ours = counts(lambda: augment(batch), number)

    def one() -> list[Tensor]:
        return [to_tensor(flip(crop(dict(img=image)))['img'])]

    theirs = counts(one, number // 3)

    everything = counts(lambda: (stock(image, *d) for d in DRAWS), 1)
    assert len(everything) == len(DRAWS) == 162
    assert set(ours) == set(theirs) == set(everything)
    table = [[found[key] for key in everything] for found in (ours, theirs)]
    assert chisquare(table[0]).pvalue > 0.01
    assert chi2_contingency(table).pvalue > 0.01
    # The test is able to find a difference of a tenth in one flip.
    augment = RandomCropAndFlip(PADDING, 0.45)
    biased = counts(lambda: augment(batch), number)
    assert chisquare([biased[key] for key in everything]).pvalue < 0.01


@pytest.mark.parametrize(('prob', 'flipped'), [(0, False), (1, True)])
def test_certain_flips(image: np.ndarray, prob: float, flipped: bool) -> None:
    batch = to_tensor(image).repeat(50, 1, 1, 1)
    expected = batch.flip(3) if flipped else batch
    assert torch.equal(RandomCropAndFlip(flip_prob=prob)(batch), expected)


def test_draws_are_of_pytorchs_stream_for_each_image() -> None:
    shades = torch.arange(1, 17, dtype=torch.uint8).view(16, 1, 1, 1)
    batch, augment = shades.expand(16, 2, 5, 5), RandomCropAndFlip(1, 0.5)
    torch.manual_seed(3)
    first, second = augment(batch), augment(batch)
    torch.manual_seed(3)
    assert torch.equal(augment(batch), first)
    assert not torch.equal(first, second)
    for shade, one in zip(range(1, 17), first):
        assert set(one.unique().tolist()) - {0} == {shade}


@pytest.mark.parametrize('number', [1, 64])
def test_waits_for_nothing_and_gathers_once(number: int) -> None:
    batch = torch.zeros(number, 3, 32, 32, dtype=torch.uint8)
    augment = RandomCropAndFlip(4, 0.5)
    with Watch() as seen:  # which raises where the host would read
        augment(batch)
    assert 'aten._to_copy' not in seen.calls
    assert seen.calls['aten.index'] == 1
    assert seen.calls.total() < 30
    # A device without values: whatever looked at one would raise.
    assert augment(batch.to('meta')).shape == batch.shape


# --- in the data preprocessor -----------------------------------------------

PIXELS = torch.randint(256, (6, 3, 8, 10), dtype=torch.uint8)


@pytest.mark.parametrize('inputs', [list(PIXELS), PIXELS, PIXELS.float()])
@pytest.mark.parametrize('to_rgb', [True, False])
def test_only_training_batches_are_cropped(inputs: Any, to_rgb: bool) -> None:
    crops = dict(crop_padding=2, flip_prob=0.5)
    preprocessor = AdversarialDataPreprocessor(augment=crops, to_rgb=to_rgb)
    torch.manual_seed(1)
    whole = preprocessor(dict(inputs=inputs))['inputs']  # draws nothing
    images = preprocessor(dict(inputs=inputs), True)['inputs']
    torch.manual_seed(1)
    expected = RandomCropAndFlip(2, 0.5)(PIXELS) / 255
    for found, wanted in ((whole, PIXELS / 255), (images, expected)):
        assert torch.equal(found, wanted.flip(1) if to_rgb else wanted)
    assert not torch.equal(images, whole)
