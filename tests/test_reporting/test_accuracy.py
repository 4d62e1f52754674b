from __future__ import annotations

import numpy as np
import pytest
from report_support import results_of
from sklearn.metrics import confusion_matrix

from m2at_mm.reporting.accuracy import (
    accuracies,
    confusion,
    shown_attacks,
    strongest_attack,
    sweep_points,
)


def test_intervals_are_computed_where_they_are_missing() -> None:
    given = {'clean': [1.0, 99.0]}
    found = accuracies(results_of({'pgd20': 50.0}, intervals=given))
    assert list(found) == ['clean', 'pgd20', 'worst_case']
    assert found['clean'] == (80.0, (1.0, 99.0))
    # 50 of 100: 40.4 to 59.6, as in any table of Wilson's interval.
    assert found['pgd20'][1] == pytest.approx((40.383, 59.617), abs=1e-3)


def test_worst_case_is_shown_last() -> None:
    runs = [results_of({'pgd20': 1.0}), results_of({'fgsm': 2.0})]
    assert shown_attacks(runs) == ['clean', 'pgd20', 'fgsm', 'worst_case']


def test_sweep_begins_with_clean() -> None:
    sweep = []
    for eps, value in ((4, 60.0), (8, 40.0)):
        one = results_of({'pgd20': value})
        del one['clean']
        one['threat_model']['eps'] = eps / 255
        sweep.append(one)
    points = sweep_points(results_of({'pgd20': 40.0}, sweep=sweep))
    assert [(eps * 255, value) for eps, (value, _) in points.items()] == [
        (0, 80),
        (4, 60),
        (8, 40),
    ]


def test_confusion_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(0, 5, (2, 200))
    counts = confusion(labels, predicted, 5)
    assert counts.tolist() == confusion_matrix(labels, predicted).tolist()


@pytest.mark.parametrize('at', ['', '@8/255'])
def test_strongest_attack(at: str) -> None:
    arrays = {f'{name}{at}': np.array([n]) for n, name in enumerate('abc')}
    results = results_of({'a': 30.0, 'b': 10.0, 'c': 20.0})
    assert strongest_attack(results, arrays) == ('b', arrays[f'b{at}'])
    assert strongest_attack(results, {}) is None
