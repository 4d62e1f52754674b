"""Checks of arguments that many classes have."""

from __future__ import annotations


def check_count(name: str, value: int) -> None:
    """Raise ValueError unless a value is a whole number of at least 1.

    Args:
        name (str): The argument's name, for the message.
        value (int): What was given for it.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, int) or value < 1:
        raise ValueError(
            f'{name}={value!r} must be a whole number of at least 1'
        )
