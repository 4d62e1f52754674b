"""Against mmpretrain's transforms, offset by offset and as a distribution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from mmcv.transforms import RandomFlip
from mmpretrain.datasets.transforms import RandomCrop
from scipy.stats import chi2_contingency, chisquare
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from m2at_mm.data_preprocessors import RandomCropAndFlip, crop_and_flip

PADDING = 4
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


def key_of(image: Tensor) -> bytes:
    return image.contiguous().numpy().tobytes()


@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32], ids=str)
@pytest.mark.parametrize(
    'layout', [torch.contiguous_format, torch.channels_last], ids=str
)
def test_each_draw_gives_the_stock_image(
    image: np.ndarray, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    tops, lefts, flips = (torch.tensor(column) for column in zip(*DRAWS))
    batch = to_tensor(image).repeat(len(DRAWS), 1, 1, 1).to(dtype)
    batch = batch.contiguous(memory_format=layout)
    before = batch.clone()

    found = crop_and_flip(batch, tops, lefts, flips, PADDING)

    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch, before)
    for one, draw in zip(found, DRAWS):
        assert torch.equal(one, stock(image, *draw).to(dtype)), draw


def test_images_of_a_batch_are_not_mixed_up() -> None:
    batch = torch.arange(1, 4, dtype=torch.uint8).view(3, 1, 1, 1)
    found = RandomCropAndFlip(1, 0.5)(batch.expand(3, 2, 5, 5))
    for index, one in enumerate(found):
        assert set(one.unique().tolist()) - {0} == {index + 1}


def counts(draw: Callable[[], list[Tensor]], number: int) -> Counter:
    found: Counter = Counter()
    while sum(found.values()) < number:
        found.update(key_of(image) for image in draw())
    return found


def test_distribution_is_that_of_the_stock_transforms(
    image: np.ndarray,
) -> None:
    number = 60 * len(DRAWS)
    augment = RandomCropAndFlip(crop_padding=PADDING, flip_prob=0.5)
    crop = RandomCrop(crop_size=image.shape[:2], padding=PADDING)
    flip = RandomFlip(prob=0.5, direction='horizontal')
    batch = to_tensor(image).repeat(number, 1, 1, 1)
    torch.manual_seed(0)
    np.random.seed(0)

    ours = counts(lambda: list(augment(batch)), number)

    def one() -> list[Tensor]:
        return [to_tensor(flip(crop(dict(img=image)))['img'])]

    theirs = counts(one, number // 3)

    everything = {key_of(stock(image, *draw)) for draw in DRAWS}
    assert len(everything) == len(DRAWS) == 162
    assert set(ours) == set(theirs) == everything
    table = [[found[key] for key in everything] for found in (ours, theirs)]
    assert chisquare(table[0]).pvalue > 0.01
    assert chi2_contingency(table).pvalue > 0.01
    # The test is able to find a difference of a tenth in one flip.
    augment = RandomCropAndFlip(PADDING, 0.45)
    biased = counts(lambda: list(augment(batch)), number)
    assert chisquare([biased[key] for key in everything]).pvalue < 0.01


@pytest.mark.parametrize(('prob', 'flipped'), [(0, False), (1, True)])
def test_certain_flips(image: np.ndarray, prob: float, flipped: bool) -> None:
    batch = to_tensor(image).repeat(50, 1, 1, 1)
    expected = batch.flip(3) if flipped else batch
    assert torch.equal(RandomCropAndFlip(flip_prob=prob)(batch), expected)


def test_draws_are_of_pytorchs_stream() -> None:
    batch = torch.randint(256, (16, 3, 8, 8), dtype=torch.uint8)
    augment = RandomCropAndFlip(2, 0.5)
    torch.manual_seed(3)
    first, second = augment(batch), augment(batch)
    torch.manual_seed(3)
    assert torch.equal(augment(batch), first)
    assert not torch.equal(first, second)


class Operations(TorchDispatchMode):
    """Counts what PyTorch runs."""

    names: Counter

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('number', [1, 64])
def test_waits_for_nothing_and_gathers_once(number: int) -> None:
    batch = torch.zeros(number, 3, 32, 32, dtype=torch.uint8)
    augment = RandomCropAndFlip(4, 0.5)
    with Operations() as seen:
        seen.names = Counter()
        augment(batch)
    for name in ('_local_scalar_dense', 'item', 'nonzero', '_to_copy'):
        assert name not in seen.names
    assert seen.names['index'] == 1
    assert sum(seen.names.values()) < 30
    # A device without values: whatever looked at one would raise.
    assert augment(batch.to('meta')).shape == batch.shape


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        *(('crop_padding', value) for value in (-1, 1.5, '4')),
        *(('flip_prob', value) for value in (-0.1, 1.1, float('nan'))),
    ],
)
def test_wrong_settings(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f'{name}={value!r} must be'):
        RandomCropAndFlip(**{name: value})
