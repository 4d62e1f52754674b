"""The attacks of an evaluation by name."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from m2at_mm.attacks import (
    Attack,
    AutoAttack,
    Foolbox,
    ForeignAttack,
    TorchAttacks,
    Transfer,
    autoattack,
)
from m2at_mm.attacks.logits import logits_of
from m2at_mm.registry import TASK_UTILS


@dataclass(frozen=True)
class NamedAttack:
    """What is known of an attack."""

    #: The user completes that of the transfer attack.
    config: dict[str, Any]
    #: Forward passes of the model per batch, at most; None if unknown.
    passes: int | None = 1
    #: The loss that it raises: cross-entropy ``'ce'``, or ``'margin'``.
    loss: str | None = None
    #: Whether it follows the gradient only once.
    single_step: bool = False
    #: Whether it climbs the loss in many steps, so that it should rise.
    climbs: bool = False
    #: Whether it never asks the model for a gradient.
    black_box: bool = False


_AUTOATTACK = dict(type='m2at_mm.AutoAttack')
_STANDARD = dict(version='standard')


def _pgd(passes: int, **settings: Any) -> NamedAttack:
    # Step sizes are left open: a quarter of the radius, 2/255 at 8/255.
    config = dict(type='m2at_mm.PGD', **settings)
    return NamedAttack(config, passes, settings.get('loss', 'ce'), climbs=True)


def _part(name: str, passes: int, **facts: Any) -> NamedAttack:
    config = dict(_AUTOATTACK, attacks=[name], **_STANDARD)
    return NamedAttack(config, passes, **facts)


#: The attacks by name. The clean images are always evaluated.
NAMED_ATTACKS = {
    'fgsm': NamedAttack(dict(type='m2at_mm.FGSM'), 3, 'ce', single_step=True),
    'pgd20': _pgd(22, steps=20),
    'pgd100': _pgd(520, steps=100, restarts=5),
    # PGD on the margin loss of Carlini and Wagner, in the literature 'CW-20'.
    'cw20': _pgd(22, steps=20, loss='margin'),
    'cw100': _pgd(102, steps=100, loss='margin'),
    'apgd-ce': _part('apgd-ce', 104, loss='ce'),
    'apgd-dlr': _part('apgd-dlr', 104, loss='margin'),
    'apgd-t': _part('apgd-t', 930, loss='margin'),
    'fab-t': _part('fab-t', 1830, loss='margin'),
    'square': _part('square', 5003, black_box=True),
    'autoattack': NamedAttack(_AUTOATTACK | _STANDARD, loss='margin'),
    'malt': _part('malt', 1030, loss='margin'),
    'autoattack-rand': NamedAttack(dict(_AUTOATTACK, version='rand')),
    'transfer': NamedAttack(dict(type='m2at_mm.Transfer'), black_box=True),
}
ATTACK_NAMES = ('clean', *NAMED_ATTACKS)
#: Asked about the images that withstand all else.
SECOND_OPINION = NamedAttack(dict(type='m2at_mm.SecondOpinion'), 14, 'margin')
DEFAULT_ATTACKS = ('clean', 'fgsm', 'pgd20', 'cw20')


def find_attack(name: str) -> NamedAttack | None:
    """The attack of a name, also like ``'torchattacks.DIFGSM'``, if any."""
    package, _, inner = name.partition('.')
    for kind in (TorchAttacks, Foolbox):
        if package == kind.package and inner in kind.every_name():
            config = dict(type=f'm2at_mm.{kind.__name__}', name=inner)
            return NamedAttack(config, passes=None)
    return NAMED_ATTACKS.get(name)


@dataclass(frozen=True)
class AttackPlan:
    """An attack as parts, each of which gets what the last one left over.

    Parts are names with configs; the note is for the reader of the results.
    """

    name: str
    parts: tuple[tuple[str, dict[str, Any]], ...]
    note: str | None = None
    attacks: tuple[Attack, ...] = ()


def check_attack_names(names: Sequence[str], has_surrogate: bool) -> None:
    """Refuse what :func:`plan_attack` could not plan.

    Raises:
        ValueError: A name is unknown, or ``'transfer'`` has no surrogate.
    """
    unknown = [n for n in names if n != 'clean' and not find_attack(n)]
    if unknown:
        raise ValueError(
            f'attacks {unknown} are unknown: choose from {list(ATTACK_NAMES)},'
            ' or an untargeted gradient attack under linf or l2 like '
            "'torchattacks.DIFGSM' and 'foolbox.LinfPGD'"
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
    """What a name of :func:`find_attack` stands for.

    ``seed`` is that of the draws of other packages, ``transfer`` has the
    arguments of the ``'transfer'`` attack.
    """
    found = find_attack(name)
    assert found is not None  # see check_attack_names
    config = copy.deepcopy(found.config)
    if '.' in name:
        config['seed'] = seed
    if name == 'transfer':
        config |= transfer or {}
    if config['type'] != 'm2at_mm.AutoAttack':
        return AttackPlan(name, ((name, config),))
    version, parts, note = config['version'], config.get('attacks'), None
    if parts is None:
        parts = autoattack.autoattack_components(version, num_classes)
        note = autoattack.describe_reduction(version, num_classes)
    configs = [dict(config, attacks=[part], seed=seed) for part in parts]
    return AttackPlan(name, tuple(zip(parts, configs)), note)


def build_attacks(
    plan: AttackPlan, images: Tensor, num_classes: int, norm: str
) -> AttackPlan:
    """The plan with its attacks, for a model of so many classes.

    Raises:
        ValueError: The number of classes or the norm does not allow an attack.
    """
    built: list[Any] = [TASK_UTILS.build(cfg) for _, cfg in plan.parts]
    for attack in built:
        if isinstance(attack, AutoAttack):
            attack.components(num_classes)
        elif isinstance(attack, ForeignAttack):
            attack.check_norm(norm)
        elif isinstance(attack, Transfer):
            surrogate = attack.surrogate.to(images.device)
            others = count_classes(surrogate, images)
            if others != num_classes:
                raise ValueError(
                    f'the surrogate of --transfer has {others} classes, but '
                    f'the model has {num_classes}: give a network for the '
                    'same dataset'
                )
    return replace(plan, attacks=tuple(built))


@torch.no_grad()
def count_classes(model: nn.Module, images: Tensor) -> int:
    """The number of a model's logits."""
    return int(logits_of(model, images).shape[1])
