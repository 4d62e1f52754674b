"""A page on a training run, or on several side by side.

A new section is a function from a :class:`Report` to HTML blocks, with a line
in ``page.SECTIONS``.
"""

from m2at_mm.reporting.measurement import Measurement, Report, measure
from m2at_mm.reporting.page import render
from m2at_mm.reporting.run_log import RunLog, read_run, read_runs

__all__ = [
    'Measurement',
    'Report',
    'RunLog',
    'measure',
    'read_run',
    'read_runs',
    'render',
]
