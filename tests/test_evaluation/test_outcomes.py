from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from m2at_mm.attacks import ThreatModel
from m2at_mm.evaluation import Outcomes
from m2at_mm.evaluation.outcomes import percent, wilson_interval


@pytest.mark.parametrize(
    ('successes', 'total'), [(0, 10), (3, 10), (10, 10), (512, 1000)]
)
def test_interval_is_that_of_scipy(successes: int, total: int) -> None:
    expected = binomtest(successes, total).proportion_ci(method='wilson')
    low, high = wilson_interval(successes, total)
    assert low == pytest.approx(100 * expected.low, abs=1e-4)
    assert high == pytest.approx(100 * expected.high, abs=1e-4)


def test_worst_case_is_per_image() -> None:
    outcome = Outcomes(
        ThreatModel(),
        np.array([0, 1, 2, 3]),
        dict(
            clean=np.array([0, 1, 2, 0]),
            pgd20=np.array([0, 2, 2, 0]),
            cw20=np.array([1, 1, 2, 0]),
        ),
    )
    assert outcome.worst().tolist() == [False, False, True, False]
    assert percent(outcome.worst()) == 25.0
    assert percent(outcome.correct('pgd20')) == 50.0
    assert outcome.attacks == ['pgd20', 'cw20']
