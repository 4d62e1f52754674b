"""The images of an evaluation, by their position in the dataset."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from m2at_mm.checks import check_choice
from m2at_mm.datasets.inside import labels_of
from m2at_mm.datasets.seeded_pipeline import given_streams
from m2at_mm.datasets.splits import round_robin
from m2at_mm.structures import BatchLabels

#: How a part of a dataset is chosen.
SUBSETS = ('spread', 'first')
# Part of the definition of a subset: networks are compared on the same images.
_SUBSET_SEED = 0
# Images that are read twice to find out whether a pipeline draws.
_NUM_READ_TWICE = 16
_UNLABELLED = (
    'each test image must have one gt_label: the evaluation is for '
    'single-label classification on a labelled dataset'
)


@dataclass
class Samples:
    """Reads chosen images of a dataset, batch by batch.

    An image is the same however often it is read: the random transforms of a
    pipeline draw from a stream that belongs to the image.

    Args:
        dataset: With ``len`` and items as mmpretrain's datasets give.
        preprocessor (Callable): From a collated batch to a dict with
            ``inputs``, RGB in [0, 1] of shape (N, C, H, W) on the device, and
            ``data_samples``.
        num_samples (int, optional): How many images to use, None for all.
        subset (str): Which images are used, if not all: ``'spread'``, drawn
            with a fixed seed, as many of each class as there are; or
            ``'first'``, the first ones of the dataset, as in AutoAttack's
            tables on CIFAR.

    Raises:
        ValueError: ``num_samples`` or ``subset`` does not fit, or an image of
            the dataset has no label, or several.
    """

    dataset: Any
    preprocessor: Callable[[Any, bool], dict[str, Any]]
    collate_fn: Callable[[list[Any]], Any]
    num_samples: int | None = None
    num_workers: int = 0
    subset: str = 'spread'

    def __post_init__(self) -> None:
        total = len(self.dataset)
        num_samples = total if self.num_samples is None else self.num_samples
        if not 1 <= num_samples <= total:
            raise ValueError(
                f'num_samples={num_samples} must be from 1 to {total}, the '
                'number of images in the test dataset'
            )
        check_choice('subset', self.subset, SUBSETS)
        labels = _labels_of(self.dataset)
        #: Positions of the images in the dataset, int64, ascending.
        self.positions = np.arange(num_samples)
        if self.subset == 'spread' and num_samples < total:
            self.positions = np.sort(spread_order(labels)[:num_samples])
        self._labels = labels[self.positions]

    @property
    def classes(self) -> list[str] | None:
        """The classes' names, None if the dataset names none."""
        classes = getattr(self.dataset, 'metainfo', {}).get('classes')
        return None if classes is None else [*map(str, classes)]

    def __len__(self) -> int:
        return len(self.positions)

    def batches(
        self, batches: Sequence[list[int]], seed: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Read batches, given by which of the chosen images are in each.

        The images are counted from 0. A pipeline with random transforms draws
        by the seed. Yielded are images, RGB in [0, 1] of shape (N, C, H, W),
        and labels, int64 of shape (N, ), on the device.
        """
        loader = DataLoader(
            _Reader(self.dataset, self.positions.tolist(), seed),
            batch_sampler=batches,
            collate_fn=self.collate_fn,
            num_workers=min(self.num_workers, len(batches)),
        )
        for data in loader:
            batch = self.preprocessor(data, False)
            images = batch['inputs']
            yield images, _labels(batch['data_samples']).to(images.device)

    def spread(self, count: int) -> list[int]:
        """Choose up to ``count`` images, in :func:`spread_order`."""
        return [int(one) for one in spread_order(self._labels)[:count]]

    def draws(self) -> bool:
        """Whether some of the images depend on random draws."""
        few = [[*range(0, len(self), -(-len(self) // _NUM_READ_TWICE))]]
        one, other = (next(iter(self.batches(few, n)))[0] for n in (0, 1))
        return not torch.equal(one, other)


def spread_order(labels: np.ndarray) -> np.ndarray:
    """Positions, (N, ), of which every first few are spread over the classes.

    Classes take turns in an order drawn by lot, as do their images, always
    the same for the same labels, int64 of shape (N, ).
    """
    draw = np.random.RandomState(_SUBSET_SEED)
    classes, of_image = np.unique(labels, return_inverse=True)
    turns = draw.permutation(len(classes))[of_image]
    return round_robin(turns, draw.permutation(len(labels)))


def fingerprints(images: Tensor) -> np.ndarray:
    """Numbers that stand for the content of images, uint64 of shape (N, )."""
    arrays = images.detach().cpu().contiguous().numpy()
    hashed = [hashlib.sha256(one.tobytes()).digest()[:8] for one in arrays]
    return np.frombuffer(b''.join(hashed), np.uint64)


@dataclass
class _Reader(Dataset[Any]):
    """Some images of a dataset, each with random streams of its own."""

    dataset: Any
    positions: list[int]
    seed: int

    def __getitem__(self, index: int) -> Any:
        position = self.positions[index]
        with given_streams((self.seed, position)):
            return self.dataset[position]

    def __getitems__(self, indices: list[int]) -> Any:
        if getattr(self.dataset, 'whole_batches', False):  # draws nothing
            positions = [self.positions[index] for index in indices]
            return self.dataset.__getitems__(positions)
        return [self[index] for index in indices]


def _labels_of(dataset: Any) -> np.ndarray:
    """The class of each image; one for all where only reading tells it."""
    try:
        labels = labels_of(dataset)
        if labels is None:
            return np.zeros(len(dataset), dtype=np.int64)
        return np.asarray(labels, dtype=np.int64).reshape(len(dataset))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(_UNLABELLED) from error


def _labels(samples: Sequence[Any] | BatchLabels | None) -> Tensor:
    if isinstance(samples, BatchLabels):
        return samples.labels
    labels = [sample.get('gt_label') for sample in samples or []]
    if not labels or any(one is None or one.numel() != 1 for one in labels):
        raise ValueError(_UNLABELLED)
    return torch.cat([label.view(1) for label in labels])
