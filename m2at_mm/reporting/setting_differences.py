"""Which settings of several configs differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

# A run's folder is its own, and a scope says nothing of the training.
_LEFT_OUT = ('work_dir', '_scope_')

Row = tuple[str | None, ...]


def compare_settings(
    configs: Sequence[dict[str, Any]],
) -> tuple[dict[str, Row], dict[str, str]]:
    """Tell settings that differ from those that all configs share.

    Args:
        configs (Sequence[dict]): At least one.

    Returns:
        tuple: By dotted name, the differing settings with a value per config,
        None where one lacks it, and the common ones with their value.
    """
    flat = [dict(_flatten(config)) for config in configs]
    different: dict[str, Row] = {}
    common: dict[str, str] = {}
    for name in dict.fromkeys(name for one in flat for name in one):
        values = tuple(one.get(name) for one in flat)
        if len(set(values)) == 1:
            common[name] = str(values[0])
        else:
            different[name] = values
    return different, common


def _flatten(value: Any, name: str = '') -> Iterator[tuple[str, str]]:
    """Pairs of a dotted name and a value; a list of numbers is a value."""
    if isinstance(value, dict) and value:
        parts = [(str(key), part) for key, part in value.items()]
    elif isinstance(value, (list, tuple)) and any(
        isinstance(part, (dict, list, tuple)) for part in value
    ):
        parts = [(str(number), part) for number, part in enumerate(value)]
    else:
        yield name, value if isinstance(value, str) else repr(value)
        return
    for key, part in parts:
        if key not in _LEFT_OUT:
            yield from _flatten(part, f'{name}.{key}' if name else key)
