"""Checks of arguments, with one wording for each kind of wrong value.

Each raises a ValueError that names the argument, the value and its remedy.
"""

import math
import operator
from collections.abc import Iterable
from typing import Any


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Check that a value is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        text = f'{name}={value!r} must be a whole number of at least {least}'
        raise ValueError(text)


def check_number(
    name: str,
    value: Any,
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
) -> None:
    """Check a finite number; ``above`` and ``below`` are out of its range."""
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = fits and math.isfinite(value)
    limits = []
    for words, bound, holds in (
        ('at least', least, operator.ge),
        ('above', above, operator.gt),
        ('at most', most, operator.le),
        ('below', below, operator.lt),
    ):
        if bound is not None:
            limits.append(f'{words} {bound:g}')
            fits = fits and holds(value, bound)
    if not fits:
        raise ValueError(
            f'{name}={value!r} must be a finite number'
            + (f', {" and ".join(limits)}' if limits else '')
        )


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Check that a value is one of the choices."""
    known = list(choices)
    if value not in known:
        raise ValueError(f'{name}={value!r} is unknown: choose one of {known}')
