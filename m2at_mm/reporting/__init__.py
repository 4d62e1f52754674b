"""A page on a training run, or on several side by side."""

from m2at_mm.reporting.measurement import Measurement, measure
from m2at_mm.reporting.page import render
from m2at_mm.reporting.run_log import RunLog, read_run, read_runs

__all__ = [
    'Measurement',
    'RunLog',
    'measure',
    'read_run',
    'read_runs',
    'render',
]
