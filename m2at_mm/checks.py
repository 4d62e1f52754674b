"""Checks of arguments, with one wording for each kind of wrong value."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Check that a value is a whole number of at least ``least``.

    Raises:
        ValueError: It is something else; the message names the argument.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f'{name}={value!r} must be a whole number of at least {least}'
        )


def check_number(
    name: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float | None = None,
    below: float | None = None,
) -> None:
    """Check that a value is a finite number within its bounds.

    ``least`` and ``most`` belong to the allowed range, ``above`` and
    ``below`` do not.

    Raises:
        ValueError: It is something else; the message names the argument.
    """
    if (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and least <= value <= most
        and (above is None or value > above)
        and (below is None or value < below)
    ):
        return
    bounds = [
        f'{words} {bound:g}'
        for words, bound in (
            ('at least', least),
            ('above', above),
            ('at most', most),
            ('below', below),
        )
        if bound is not None and math.isfinite(bound)
    ]
    raise ValueError(
        f'{name}={value!r} must be a finite number'
        + (f', {" and ".join(bounds)}' if bounds else '')
    )


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Check that a value is one of the choices.

    Raises:
        ValueError: It is something else; the message lists the choices.
    """
    known = list(choices)
    if value not in known:
        raise ValueError(f'{name}={value!r} is unknown: choose one of {known}')
