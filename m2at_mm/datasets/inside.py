"""What is inside the datasets that repeat, join or choose from others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

import numpy as np
from torch.utils.data import ConcatDataset, Subset


def inner_datasets(dataset: Any) -> Iterator[Any]:
    """The dataset itself and those inside it, from the outside in.

    Args:
        dataset: Like ``RepeatDataset``, ``ConcatDataset``,
            ``ClassBalancedDataset``, ``KFoldDataset`` or
            :class:`torch.utils.data.Subset`, or one with images of its own.
    """
    yield dataset
    inside = list(getattr(dataset, 'datasets', ()))
    if hasattr(dataset, 'dataset'):
        inside.append(dataset.dataset)
    for one in inside:
        yield from inner_datasets(one)


def labelled_datasets(
    dataset: Any,
) -> Iterator[tuple[Any, np.ndarray]]:
    """The datasets with images that tell their labels, and the labels.

    Args:
        dataset: See :func:`inner_datasets`.

    Yields:
        tuple: A dataset, and the labels of those of its images that
        ``dataset`` gives, int64 of shape (N, ).
    """
    if isinstance(dataset, ConcatDataset):
        for one in dataset.datasets:
            yield from labelled_datasets(one)
        return
    labels = _labels(dataset)
    if labels is not None:
        *_, innermost = inner_datasets(dataset)
        yield innermost, labels


def _labels(dataset: Any) -> Optional[np.ndarray]:
    if hasattr(dataset, 'get_gt_labels'):
        return np.asarray(dataset.get_gt_labels())
    if isinstance(dataset, ConcatDataset):
        parts = [_labels(one) for one in dataset.datasets]
        known = [part for part in parts if part is not None]
        return np.concatenate(known) if len(known) == len(parts) else None
    if not hasattr(dataset, 'dataset'):
        return None
    labels = _labels(dataset.dataset)
    if isinstance(dataset, Subset) and labels is not None:
        return labels[np.asarray(dataset.indices, dtype=np.int64)]
    return labels
