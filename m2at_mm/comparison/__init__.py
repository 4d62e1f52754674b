"""Methods under one budget, side by side."""

from m2at_mm.comparison.plan import Plan, Run, load_plan
from m2at_mm.comparison.summary import (
    Entry,
    pareto_front,
    plot_trade_off,
    summarise,
    to_markdown,
)

__all__ = [
    'Entry',
    'Plan',
    'Run',
    'load_plan',
    'pareto_front',
    'plot_trade_off',
    'summarise',
    'to_markdown',
]
