"""Robust accuracy, and signs that it should not be believed."""

from m2at_mm.evaluation.alarms import Alarm, find_alarms
from m2at_mm.evaluation.robust_accuracy import RobustAccuracy

__all__ = ['Alarm', 'RobustAccuracy', 'find_alarms']
