"""What is inside the datasets that repeat, join or choose from others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset


def inner_datasets(dataset: Any) -> Iterator[Any]:
    """The dataset itself and those inside it, from the outside in.

    Args:
        dataset: Like ``RepeatDataset``, ``ConcatDataset``,
            ``ClassBalancedDataset``, ``KFoldDataset`` or
            :class:`torch.utils.data.Subset`, or one with images of its own.
    """
    yield dataset
    inside = getattr(dataset, '__dict__', {})
    yield from (
        deeper
        for one in (*inside.get('datasets', ()), *_wrapped(dataset))
        for deeper in inner_datasets(one)
    )


def _wrapped(dataset: Any) -> list[Any]:
    """What a wrapper of one dataset wraps; nothing for other datasets."""
    inside = getattr(dataset, '__dict__', {})
    # The latter is that of MMEngine's num_batch_per_epoch.
    return [inside[name] for name in ('dataset', '_dataset') if name in inside]


def labels_of(dataset: Any) -> np.ndarray | None:
    """The labels of the images that a dataset gives, without reading them.

    Args:
        dataset: See :func:`inner_datasets`.

    Returns:
        np.ndarray, optional: Shape (len(dataset), ); None where only reading
        an image tells its label.

    Raises:
        KeyError: The images have no labels.
    """
    if isinstance(dataset, ConcatDataset):
        parts = [labels_of(one) for one in dataset.datasets]
        known = [part for part in parts if part is not None]
        return np.concatenate(known) if len(known) == len(parts) else None
    wrapped = _wrapped(dataset)
    if not wrapped:
        if hasattr(dataset, 'get_gt_labels'):
            return np.asarray(dataset.get_gt_labels())
        if hasattr(dataset, 'get_data_info'):  # MMEngine's own
            infos = map(dataset.get_data_info, range(len(dataset)))
            return np.asarray([info['gt_label'] for info in infos])
        return None
    labels = labels_of(wrapped[0])
    if labels is None:
        return None
    for name in ('repeat_indices', 'indices'):
        chosen = getattr(dataset, '__dict__', {}).get(name)
        if chosen is not None:
            return labels[np.asarray(chosen, dtype=np.int64)]
    # Repeated, or cut off.
    return np.resize(labels, len(dataset))


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
    try:
        labels = labels_of(dataset)
    except KeyError:  # unlabelled
        return
    if labels is not None:
        *_, innermost = inner_datasets(dataset)
        yield innermost, labels
