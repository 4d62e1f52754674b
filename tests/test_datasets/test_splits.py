import itertools

import numpy as np
import pytest

from m2at_mm.datasets.splits import round_robin, stratified_split

RNG = np.random.RandomState(0)
LABELS = {
    'sorted': np.repeat(np.arange(4), 10),
    'in-turns': np.tile(np.arange(4), 10),
    'shuffled': RNG.permutation(np.repeat(np.arange(4), 10)),
    'unequal': RNG.permutation(np.repeat(np.arange(4), [9, 12, 10, 30])),
    'gap': RNG.permutation(np.repeat([0, 2, 7], 10)),
}


@pytest.mark.parametrize('name', LABELS)
@pytest.mark.parametrize('sizes', [[], [3], [2, 4], [1, 1, 5]], ids=str)
def test_parts_are_disjoint_and_complete(name: str, sizes: list[int]) -> None:
    labels = LABELS[name]

    parts = stratified_split(labels, sizes)

    assert len(parts) == len(sizes) + 1
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    for part, size in zip(parts, sizes):
        _, counts = np.unique(labels[part], return_counts=True)
        assert counts.tolist() == [size] * len(np.unique(labels))
    for part in parts:
        assert (np.diff(part) > 0).all()


def test_nth_sample_of_a_class_stays_in_its_part() -> None:
    """However the classes are interleaved, as in files and in folders."""
    members = []
    for name in ('sorted', 'in-turns', 'shuffled'):
        labels = LABELS[name]
        rank = [(labels[:i] == k).sum() for i, k in enumerate(labels)]
        of_class = [*zip(labels.tolist(), rank)]
        parts = stratified_split(labels, [3, 2])
        members.append([{of_class[k] for k in part} for part in parts])
    assert members[0] == members[1] == members[2]


def test_split_is_random_but_fixed() -> None:
    np.random.seed(1)
    first = stratified_split(LABELS['sorted'], [5])
    np.random.seed(2)
    again = stratified_split(LABELS['sorted'], [5])
    assert all((a == b).all() for a, b in zip(first, again))
    # Not simply the first five of each class.
    assert (first[0] % 10).max() > 4


@pytest.mark.parametrize('name', LABELS)
def test_round_robin_takes_turns(name: str) -> None:
    labels = LABELS[name]
    part = np.flatnonzero(RNG.rand(len(labels)) < 0.8)

    ordered = round_robin(labels, part)

    waiting = [part[labels[part] == k].tolist() for k in np.unique(labels)]
    turns = itertools.chain(*itertools.zip_longest(*waiting))
    assert ordered.tolist() == [one for one in turns if one is not None]
    assert round_robin(labels, part[:0]).tolist() == []
