"""The images of an evaluation, by their position in the dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Callable, Optional, Union

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from m2at_mm.structures import BatchLabels


class Samples:
    """Reads chosen images of a dataset, batch by batch.

    Args:
        dataset: With ``len`` and items as mmpretrain's datasets give.
        preprocessor (Callable): From a collated batch to a dict with
            ``inputs``, RGB in [0, 1] of shape (N, C, H, W) on the device, and
            ``data_samples``.
        collate_fn (Callable): Joins items to a batch.
        num_samples (int, optional): How many images to use, the dataset's
            first ones. Defaults to None, all.
        num_workers (int): Processes that read. Defaults to 0.

    Raises:
        ValueError: ``num_samples`` is not from 1 to the dataset's size.
    """

    def __init__(
        self,
        dataset: Any,
        preprocessor: Callable[[Any, bool], dict[str, Any]],
        collate_fn: Callable[[list[Any]], Any],
        num_samples: Optional[int] = None,
        num_workers: int = 0,
    ) -> None:
        if num_samples is None:
            num_samples = len(dataset)
        if not 1 <= num_samples <= len(dataset):
            raise ValueError(
                f'num_samples={num_samples} must be from 1 to {len(dataset)}, '
                'the number of images in the test dataset'
            )
        self._dataset = dataset
        self._preprocessor = preprocessor
        self._collate_fn = collate_fn
        self._num_samples = num_samples
        self._num_workers = num_workers

    @property
    def num_classes(self) -> Optional[int]:
        """How many classes the dataset names, None if it names none."""
        classes = getattr(self._dataset, 'metainfo', {}).get('classes')
        return None if classes is None else len(classes)

    def __len__(self) -> int:
        return self._num_samples

    def batches(
        self, positions: Sequence[list[int]]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Read batches.

        Args:
            positions (Sequence[list[int]]): Of each batch, the positions
                of its images in the dataset.

        Yields:
            tuple[Tensor, Tensor]: Images, RGB in [0, 1] of shape
            (N, C, H, W), and labels, int64 of shape (N, ), on the device.

        Raises:
            ValueError: An image has no label, or not exactly one.
        """
        loader = DataLoader(
            self._dataset,
            batch_sampler=positions,
            collate_fn=self._collate_fn,
            num_workers=min(self._num_workers, len(positions)),
        )
        for data in loader:
            batch = self._preprocessor(data, False)
            images = batch['inputs']
            yield images, _labels(batch['data_samples']).to(images.device)


def _labels(samples: Union[Sequence[Any], BatchLabels]) -> Tensor:
    if isinstance(samples, BatchLabels):
        return samples.labels
    labels = [sample.get('gt_label') for sample in samples]
    if any(label is None or label.numel() != 1 for label in labels):
        raise ValueError(
            'each test image must have one gt_label: the evaluation is for '
            'single-label classification on a labelled dataset'
        )
    return torch.cat([label.view(1) for label in labels])
