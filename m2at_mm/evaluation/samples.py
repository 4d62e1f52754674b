"""The images of an evaluation, by their position in the dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

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


class Samples:
    """Reads chosen images of a dataset, batch by batch.

    An image is the same however often it is read: the random transforms of a
    pipeline draw from a stream that belongs to the image.

    Args:
        dataset: With ``len`` and items as mmpretrain's datasets give.
        preprocessor (Callable): From a collated batch to a dict with
            ``inputs``, RGB in [0, 1] of shape (N, C, H, W) on the device, and
            ``data_samples``.
        collate_fn (Callable): Joins items to a batch.
        num_samples (int, optional): How many images to use. Defaults to None,
            all.
        num_workers (int): Processes that read. Defaults to 0.
        subset (str): Which images are used, if not all: ``'spread'``, drawn
            with a fixed seed, as many of each class as there are; or
            ``'first'``, the first ones of the dataset, as in AutoAttack's
            tables on CIFAR. Defaults to ``'spread'``.

    Raises:
        ValueError: ``num_samples`` is not from 1 to the dataset's size,
            ``subset`` is unknown, or an image of the dataset has no label, or
            several.
    """

    def __init__(
        self,
        dataset: Any,
        preprocessor: Callable[[Any, bool], dict[str, Any]],
        collate_fn: Callable[[list[Any]], Any],
        num_samples: int | None = None,
        num_workers: int = 0,
        subset: str = 'spread',
    ) -> None:
        if num_samples is None:
            num_samples = len(dataset)
        if not 1 <= num_samples <= len(dataset):
            raise ValueError(
                f'num_samples={num_samples} must be from 1 to {len(dataset)}, '
                'the number of images in the test dataset'
            )
        if subset not in SUBSETS:
            raise ValueError(
                f'subset={subset!r} is unknown: choose one of {list(SUBSETS)}'
            )
        self._dataset = dataset
        self._preprocessor = preprocessor
        self._collate_fn = collate_fn
        self._num_workers = num_workers
        #: Positions of the images in the dataset, int64, ascending.
        self.positions = np.arange(num_samples)
        self._labels = _labels_of(dataset)
        if subset == 'spread' and num_samples < len(dataset):
            order = spread_order(self._labels)
            self.positions = np.sort(order[:num_samples])

    @property
    def num_classes(self) -> int | None:
        """How many classes the dataset names, None if it names none."""
        classes = getattr(self._dataset, 'metainfo', {}).get('classes')
        return None if classes is None else len(classes)

    def __len__(self) -> int:
        return len(self.positions)

    def batches(
        self, batches: Sequence[list[int]], seed: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Read batches.

        Args:
            batches (Sequence[list[int]]): Of each batch, which of the chosen
                images are in it, counted from 0.
            seed (int): Of the draws of a pipeline with random transforms.
                Defaults to 0.

        Yields:
            tuple[Tensor, Tensor]: Images, RGB in [0, 1] of shape
            (N, C, H, W), and labels, int64 of shape (N, ), on the device.

        Raises:
            ValueError: An image has no label, or not exactly one.
        """
        loader = DataLoader(
            _Reader(self._dataset, self.positions, seed),
            batch_sampler=batches,
            collate_fn=self._collate_fn,
            num_workers=min(self._num_workers, len(batches)),
        )
        for data in loader:
            batch = self._preprocessor(data, False)
            images = batch['inputs']
            yield images, _labels(batch['data_samples']).to(images.device)

    def spread(self, count: int) -> list[int]:
        """Choose images for a picture or a probe.

        Args:
            count (int): How many, at most.

        Returns:
            list[int]: Which of the images, counted from 0, in the order of
            :func:`spread_order`.
        """
        order = spread_order(self._labels[self.positions])
        return [int(index) for index in order[:count]]

    def draws(self) -> bool:
        """Whether some of the images depend on random draws."""
        every = -(-len(self) // _NUM_READ_TWICE)
        few = [[*range(0, len(self), every)]]
        (one, _), (other, _) = (
            next(iter(self.batches(few, seed))) for seed in (0, 1)
        )
        return not torch.equal(one, other)


def spread_order(labels: np.ndarray) -> np.ndarray:
    """An order in which every first N are spread over the classes.

    Args:
        labels (np.ndarray): Class of each image, int64 of shape (N, ).

    Returns:
        np.ndarray: Positions, shape (N, ); the same for the same labels.
        Classes take turns in an order drawn by lot, as do their images.
    """
    draw = np.random.RandomState(_SUBSET_SEED)
    classes, of_image = np.unique(labels, return_inverse=True)
    turns = draw.permutation(len(classes))[of_image]
    return round_robin(turns, draw.permutation(len(labels)))


def fingerprints(images: Tensor) -> np.ndarray:
    """Numbers that stand for the content of images.

    Args:
        images (Tensor): Shape (N, C, H, W).

    Returns:
        np.ndarray: uint64, shape (N, ).
    """
    pixels = images.detach().cpu().contiguous().numpy()
    hashed = b''.join(
        hashlib.sha256(image.tobytes()).digest()[:8] for image in pixels
    )
    return np.frombuffer(hashed, np.uint64)


class _Reader(Dataset[Any]):
    """Some images of a dataset, each with random streams of its own."""

    def __init__(self, dataset: Any, positions: np.ndarray, seed: int) -> None:
        self._dataset = dataset
        self._positions = positions.tolist()
        self._seed = seed

    def __getitem__(self, index: int) -> Any:
        position = self._positions[index]
        with given_streams((self._seed, position)):
            return self._dataset[position]

    def __getitems__(self, indices: list[int]) -> Any:
        if getattr(self._dataset, 'whole_batches', False):  # draws nothing
            positions = [self._positions[index] for index in indices]
            return self._dataset.__getitems__(positions)
        return [self[index] for index in indices]


def _labels_of(dataset: Any) -> np.ndarray:
    """The class of each image; one for all where only reading tells it."""
    try:
        labels = labels_of(dataset)
    except KeyError as error:
        raise ValueError(_UNLABELLED) from error
    if labels is None:
        return np.zeros(len(dataset), dtype=np.int64)
    try:
        return np.asarray(labels, dtype=np.int64).reshape(len(dataset))
    except (TypeError, ValueError) as error:
        raise ValueError(_UNLABELLED) from error


def _labels(samples: Sequence[Any] | BatchLabels | None) -> Tensor:
    if isinstance(samples, BatchLabels):
        return samples.labels
    labels = [sample.get('gt_label') for sample in samples or []]
    if not labels or any(
        label is None or label.numel() != 1 for label in labels
    ):
        raise ValueError(_UNLABELLED)
    return torch.cat([label.view(1) for label in labels])
