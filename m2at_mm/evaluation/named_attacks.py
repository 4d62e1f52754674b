"""The attacks of an evaluation by name."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from m2at_mm.attacks.autoattack import (
    autoattack_components,
    describe_reduction,
)


@dataclass(frozen=True)
class NamedAttack:
    """What is known of an attack."""

    #: The user completes that of the transfer attack.
    config: dict[str, Any]
    #: Forward passes of the model per batch, at most.
    passes: int = 1
    #: The loss that it raises: cross-entropy ``'ce'``, or ``'margin'``.
    loss: str | None = None
    #: Whether it follows the gradient only once.
    single_step: bool = False
    #: Whether it climbs the loss in many steps, so that it should rise.
    climbs: bool = False
    #: Whether it never asks the model for a gradient.
    black_box: bool = False


def _pgd(passes: int, **settings: Any) -> NamedAttack:
    # Step sizes are left open: a quarter of the radius, 2/255 at 8/255.
    config = dict(type='m2at_mm.PGD', **settings)
    return NamedAttack(config, passes, settings.get('loss', 'ce'), climbs=True)


def _autoattack(
    name: str, passes: int, loss: str | None = None, black_box: bool = False
) -> NamedAttack:
    config = dict(
        type='m2at_mm.AutoAttack', attacks=[name], version='standard'
    )
    return NamedAttack(config, passes, loss, black_box=black_box)


#: The attacks by name. The clean images are always evaluated.
NAMED_ATTACKS = {
    'fgsm': NamedAttack(
        dict(type='m2at_mm.FGSM'), passes=3, loss='ce', single_step=True
    ),
    'pgd20': _pgd(22, steps=20),
    'pgd100': _pgd(520, steps=100, restarts=5),
    # PGD on the margin loss of Carlini and Wagner, in the literature 'CW-20'.
    'cw20': _pgd(22, steps=20, loss='margin'),
    'cw100': _pgd(102, steps=100, loss='margin'),
    'apgd-ce': _autoattack('apgd-ce', 104, 'ce'),
    'apgd-dlr': _autoattack('apgd-dlr', 104, 'margin'),
    'apgd-t': _autoattack('apgd-t', 930, 'margin'),
    'fab-t': _autoattack('fab-t', 1830, 'margin'),
    'square': _autoattack('square', 5003, black_box=True),
    'autoattack': NamedAttack(
        dict(type='m2at_mm.AutoAttack', version='standard'), loss='margin'
    ),
    'malt': _autoattack('malt', 1030, 'margin'),
    'autoattack-rand': NamedAttack(
        dict(type='m2at_mm.AutoAttack', version='rand')
    ),
    'transfer': NamedAttack(dict(type='m2at_mm.Transfer'), black_box=True),
}
ATTACK_NAMES = ('clean', *NAMED_ATTACKS)
#: Asked about the images that withstand all else.
SECOND_OPINION = NamedAttack(
    dict(type='m2at_mm.SecondOpinion'), passes=14, loss='margin'
)
DEFAULT_ATTACKS = ('clean', 'fgsm', 'pgd20', 'cw20')


@dataclass(frozen=True)
class AttackPlan:
    """An attack as parts, each of which gets what the last one left over.

    The parts are pairs of a name and an attack's config; the note is for the
    reader of the results.
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
    """What a name of :data:`ATTACK_NAMES` but ``'clean'`` stands for.

    ``seed`` is that of AutoAttack's random starts, ``transfer`` has the
    arguments of the ``'transfer'`` attack.
    """
    config = copy.deepcopy(NAMED_ATTACKS[name].config) | (
        dict(transfer or {}) if name == 'transfer' else {}
    )
    if config['type'] != 'm2at_mm.AutoAttack':
        return AttackPlan(name, ((name, config),))
    version, parts, note = config['version'], config.get('attacks'), None
    if parts is None:
        parts = autoattack_components(version, num_classes)
        note = describe_reduction(version, num_classes)
    configs = [dict(config, attacks=[part], seed=seed) for part in parts]
    return AttackPlan(name, tuple(zip(parts, configs)), note)
