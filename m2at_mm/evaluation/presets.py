"""The attacks of ``tools/test.py`` by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Step sizes are left open: a quarter of the radius, 2/255 at 8/255.
_PRESETS: dict[str, dict[str, Any]] = {
    'fgsm': dict(type='m2at_mm.FGSM'),
    'pgd20': dict(type='m2at_mm.PGD', steps=20),
    # PGD on the margin loss of Carlini and Wagner, in the literature 'CW-20'.
    'cw20': dict(type='m2at_mm.PGD', steps=20, loss='margin'),
}
# The clean images are always evaluated.
ATTACK_NAMES = ('clean', *_PRESETS)


def preset_attacks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Configs for ``eval_attacks`` of an adversarial classifier.

    Args:
        names (Sequence[str]): Of :data:`ATTACK_NAMES`.

    Returns:
        dict[str, dict]: Attack configs by name, without ``'clean'``.

    Raises:
        ValueError: A name is unknown.
    """
    unknown = [name for name in names if name not in ATTACK_NAMES]
    if unknown:
        raise ValueError(
            f'attacks {unknown} are unknown: choose from {list(ATTACK_NAMES)}'
        )
    return {name: dict(_PRESETS[name]) for name in names if name != 'clean'}
