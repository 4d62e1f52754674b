"""Trainings that are killed and resumed, against one that ran through."""

from m2at_mm.interruptions.comparison import differences
from m2at_mm.interruptions.trial import Training, Trial, kill_and_resume

__all__ = ['Training', 'Trial', 'differences', 'kill_and_resume']
