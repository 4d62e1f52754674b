"""Fixed, class-balanced splits of a dataset."""

import numpy as np

SPLITS = ('train', 'val', 'test')
# Part of the definition of the splits: another seed is another data set.
_SPLIT_SEED = 0


def stratified_split(labels: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """Split samples by labels, (N, ), to parts of ``sizes`` of every class.

    Ascending indices of each part and of the rest. Where the n-th sample of a
    class goes does not depend on the other classes.
    """
    rng = np.random.RandomState(_SPLIT_SEED)
    parts: list[list[np.ndarray]] = [[] for _ in range(len(sizes) + 1)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        for part, chunk in zip(parts, np.split(members, np.cumsum(sizes))):
            part.append(chunk)
    return [np.sort(np.concatenate(part)) for part in parts]


def round_robin(labels: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Order samples, ``part`` of shape (M, ), so that every first N balance.

    The first one of every class in class order, then the second ones, ...
    """
    rank = np.empty(len(part), dtype=np.int64)
    for label in np.unique(labels[part]):
        members = np.flatnonzero(labels[part] == label)
        rank[members] = np.arange(len(members))
    return part[np.lexsort((labels[part], rank))]
