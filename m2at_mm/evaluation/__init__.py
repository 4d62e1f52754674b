"""Robust accuracy, and signs that it should not be believed."""

from m2at_mm.evaluation.alarms import Alarm, find_alarms
from m2at_mm.evaluation.outcomes import Outcomes
from m2at_mm.evaluation.robust_accuracy import RobustAccuracy
from m2at_mm.evaluation.robustness import RobustnessEvaluation
from m2at_mm.evaluation.robustness_test_loop import RobustnessTestLoop
from m2at_mm.evaluation.samples import Samples
from m2at_mm.evaluation.store import ResultStore

__all__ = [
    'Alarm',
    'Outcomes',
    'ResultStore',
    'RobustAccuracy',
    'RobustnessEvaluation',
    'RobustnessTestLoop',
    'Samples',
    'find_alarms',
]
