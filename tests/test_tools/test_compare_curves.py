"""Hypervolumes against areas by hand and against a finer sum."""

from typing import Any

import numpy as np
import pytest

from comparison.curves import correct_images, hypervolume, make_curves
from comparison.summary import curves_to_markdown, summarise

AREAS = [
    ([(60, 30)], 30.0),
    ([(50, 30)], 15.0),  # nothing for the upper half
    ([(40, 30)], 0.0),
    ([(30, 50), (60, 30)], 30.0),
    ([(50, 40), (60, 30)], 35.0),
    ([(50, 20), (60, 30)], 30.0),  # a dominated point adds nothing
    ([(45, 44), (45, 40), (55, 36), (70, 20)], 0.25 * 44 + 18 + 5),
]


@pytest.mark.parametrize(('points', 'area'), AREAS)
def test_areas_by_hand(points: list[Any], area: float) -> None:
    clean, worst = np.array(points, float).T
    assert hypervolume(clean, worst, (40, 60)) == pytest.approx(area)


def test_area_against_a_sum() -> None:
    rng = np.random.default_rng(0)
    clean, worst = rng.uniform(20, 80, (2, 7, 5))
    asked = np.linspace(35, 65, 30_001)
    given = np.where(clean[..., None] >= asked, worst[..., None], 0).max(1)
    found = hypervolume(clean, worst, (35, 65))
    assert found == pytest.approx(given.mean(-1), abs=0.01)


def test_worst_case_of_each_image() -> None:
    label = np.array([0, 1, 2, 3])
    pgd, square = np.array([0, 1, 0, 3]), np.array([0, 0, 2, 3])
    clean = np.array([0, 1, 2, 0])
    predictions = dict(index=label, label=label, clean=clean)
    found = correct_images(predictions | dict(pgd=pgd, square=square))
    assert found.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]


def _run(correct: np.ndarray) -> dict[str, Any]:
    clean, worst = 100 * correct.mean(1)
    return dict(clean=clean, attacks={}, worst_case=worst)


def test_curves_of_images() -> None:
    """Against the same by loops; the better curve is ahead."""
    rng = np.random.default_rng(1)
    points = dict(good=['g1', 'g2'], bad=['b1', 'b2'])
    correct = {}
    for name, shift in zip(('g1', 'g2', 'b1', 'b2'), (0, 0.2, -0.3, -0.2)):
        correct[name] = []
        for _ in range(2):
            draws = rng.random(200)
            # More clean accuracy for less robustness.
            worst = draws < 0.3 - shift / 4 + (0.1 if name[0] == 'g' else 0)
            clean = worst | (draws < 0.5 + shift)
            correct[name].append(np.stack([clean, worst]))
    entries = summarise({k: [*map(_run, v)] for k, v in correct.items()})
    found = make_curves(points, entries, correct, (20.0, 70.0))
    good, bad = (found['curves'][name] for name in points)
    for curve, names in ((good, points['good']), (bad, points['bad'])):
        means = [np.mean(correct[name], axis=(0, 2)) * 100 for name in names]
        clean, worst = np.transpose(means)
        expected = hypervolume(clean, worst, (20.0, 70.0))
        assert curve['hypervolume'] == pytest.approx(expected)
        drawn = []
        for _ in range(400):
            images = rng.integers(200, size=200)
            at = []
            for name in names:
                seeds = [correct[name][k] for k in rng.integers(2, size=2)]
                at.append(100 * np.mean(seeds, axis=0)[:, images].mean(1))
            drawn.append(hypervolume(*np.transpose(at), (20.0, 70.0)))
        low, high = np.percentile(drawn, [2.5, 97.5])
        assert curve['interval'] == pytest.approx([low, high], abs=2.5)
    assert good['dominated'] == [] and bad['dominated'] == ['b1', 'b2']
    assert good['largest'] > 99 > 1 > bad['largest']
    table = curves_to_markdown(found).splitlines()
    assert table[0].startswith('| curve | points | dominated | hypervolume')
    assert (
        '20.0 to 70.0 % clean' in table[0]
        and '| b1, b2 | b1, b2 |' in table[3]
    )
    # Without ``between``: from the lowest to the highest point.
    ends = make_curves(points, entries, correct)['between']
    every = [entry.mean['clean'] for entry in entries]
    assert ends == [min(every), max(every)]
