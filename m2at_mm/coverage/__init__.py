"""Tries a recipe on every config of the installed mmpretrain."""

from m2at_mm.coverage.attempt import Outcome, try_config
from m2at_mm.coverage.table import to_markdown
from m2at_mm.coverage.workers import Limits, run_all

__all__ = ['Limits', 'Outcome', 'run_all', 'to_markdown', 'try_config']
