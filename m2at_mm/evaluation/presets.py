"""The attacks of ``tools/test.py`` by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from m2at_mm.attacks.autoattack import (
    AUTOATTACK_PARTS,
    autoattack_components,
    describe_reduction,
)

# Step sizes are left open: a quarter of the radius, 2/255 at 8/255.
_SINGLE: dict[str, dict[str, Any]] = {
    'fgsm': dict(type='m2at_mm.FGSM'),
    'pgd20': dict(type='m2at_mm.PGD', steps=20),
    'pgd100': dict(type='m2at_mm.PGD', steps=100, restarts=5),
    # PGD on the margin loss of Carlini and Wagner, in the literature 'CW-20'.
    'cw20': dict(type='m2at_mm.PGD', steps=20, loss='margin'),
    'cw100': dict(type='m2at_mm.PGD', steps=100, loss='margin'),
}
_AUTOATTACK_VERSIONS = {'autoattack': 'standard', 'autoattack-rand': 'rand'}
#: The clean images are always evaluated.
ATTACK_NAMES = (
    'clean',
    *_SINGLE,
    *AUTOATTACK_PARTS,
    *_AUTOATTACK_VERSIONS,
    'transfer',
)
DEFAULT_ATTACKS = ('clean', 'fgsm', 'pgd20', 'cw20')
#: Attacks that never ask the model for a gradient.
BLACK_BOX = ('square', 'transfer')


@dataclass(frozen=True)
class AttackPlan:
    """An attack as parts, each of which gets what the last one left over.

    Attributes:
        name (str): As in :data:`ATTACK_NAMES`.
        parts (tuple): Pairs of a name and an attack's config.
        note (str, optional): What a reader of the results must know.
    """

    name: str
    parts: tuple[tuple[str, dict[str, Any]], ...]
    note: str | None = None


def check_attack_names(names: Sequence[str], has_surrogate: bool) -> None:
    """Refuse what :func:`plan_attack` could not plan.

    Raises:
        ValueError: A name is unknown, or ``'transfer'`` has no surrogate.
    """
    unknown = [name for name in names if name not in ATTACK_NAMES]
    if unknown:
        raise ValueError(
            f'attacks {unknown} are unknown: choose from {list(ATTACK_NAMES)}'
        )
    if 'transfer' in names and not has_surrogate:
        raise ValueError(
            "attack 'transfer' needs a surrogate: give --transfer CONFIG "
            'CHECKPOINT of another network'
        )


def plan_attack(
    name: str,
    num_classes: int,
    seed: int = 0,
    transfer: dict[str, Any] | None = None,
) -> AttackPlan:
    """What an attack's name stands for.

    Args:
        name (str): Of :data:`ATTACK_NAMES`, but not ``'clean'``.
        num_classes (int): Classes of the model, at least 2.
        seed (int): Of AutoAttack's random starts. Defaults to 0.
        transfer (dict, optional): Config of the ``'transfer'`` attack.
            Defaults to None.

    Returns:
        AttackPlan: The attack.
    """
    if name in _SINGLE:
        return AttackPlan(name, ((name, dict(_SINGLE[name])),))
    if name == 'transfer':
        assert transfer is not None
        return AttackPlan(name, ((name, transfer),))
    if name in AUTOATTACK_PARTS:
        return AttackPlan(name, (_autoattack_part(name, 'standard', seed),))
    version = _AUTOATTACK_VERSIONS[name]
    parts = autoattack_components(version, num_classes)
    return AttackPlan(
        name,
        tuple(_autoattack_part(part, version, seed) for part in parts),
        describe_reduction(version, num_classes),
    )


def _autoattack_part(
    name: str, version: str, seed: int
) -> tuple[str, dict[str, Any]]:
    return name, dict(
        type='m2at_mm.AutoAttack', attacks=[name], version=version, seed=seed
    )
