"""The datasets inside those that repeat, join or choose from others."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset


def _wrapped(dataset: Any) -> list[Any]:
    inside = getattr(dataset, '__dict__', {})
    # _dataset is that of MMEngine's num_batch_per_epoch.
    return [inside[name] for name in ('dataset', '_dataset') if name in inside]


def inner_datasets(dataset: Any) -> Iterator[Any]:
    """The dataset itself and those inside it, from the outside in."""
    yield dataset
    joined = getattr(dataset, '__dict__', {}).get('datasets', ())
    for part in (*joined, *_wrapped(dataset)):
        yield from inner_datasets(part)


def labels_of(dataset: Any) -> np.ndarray | None:
    """The labels of the images that a dataset gives, without reading them.

    Of shape (len(dataset), ), or None where only reading an image tells its
    label. Raises KeyError where images have no labels.
    """
    joined = isinstance(dataset, ConcatDataset)
    parts = dataset.datasets if joined else _wrapped(dataset)
    if not parts:
        if hasattr(dataset, 'get_gt_labels'):
            return np.asarray(dataset.get_gt_labels())
        if hasattr(dataset, 'get_data_info'):  # MMEngine's own
            infos = map(dataset.get_data_info, range(len(dataset)))
            return np.asarray([info['gt_label'] for info in infos])
        return None
    found = [labels_of(part) for part in parts]
    known = [labels for labels in found if labels is not None]
    if len(known) < len(found):
        return None
    labels = np.concatenate(known)
    for name in ('repeat_indices', 'indices'):
        chosen = getattr(dataset, '__dict__', {}).get(name)
        if chosen is not None:
            return labels[np.asarray(chosen, dtype=np.int64)]
    # Joined, repeated or cut off.
    return np.resize(labels, len(dataset))


def labelled_datasets(dataset: Any) -> Iterator[tuple[Any, np.ndarray]]:
    """The datasets whose labels are known, and those of what they give."""
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
