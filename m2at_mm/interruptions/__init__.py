"""Trainings that are killed and resumed, against one that ran through."""

from m2at_mm.interruptions.comparison import differences
from m2at_mm.interruptions.trial import (
    Training,
    Trial,
    count_lines,
    kill_and_resume,
)

__all__ = [
    'Training',
    'Trial',
    'count_lines',
    'differences',
    'kill_and_resume',
]
