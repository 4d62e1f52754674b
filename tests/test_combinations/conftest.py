"""Prints how many pairs the combinations cover."""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """A line at the end, also without -v."""
    for report in terminalreporter.getreports('passed'):
        for name, value in report.user_properties:
            if name == 'pairs':
                terminalreporter.write_line(f'pairwise: {value}, all covered')
