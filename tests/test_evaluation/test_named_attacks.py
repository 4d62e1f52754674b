import re

import pytest
import torch
from mmengine.registry import TASK_UTILS, DefaultScope
from torch import Tensor, nn

from m2at_mm.attacks import FGSM, PGD, Attack, AutoAttack, ThreatModel
from m2at_mm.evaluation.named_attacks import (
    ATTACK_NAMES,
    DEFAULT_ATTACKS,
    NAMED_ATTACKS,
    SECOND_OPINION,
    NamedAttack,
    check_attack_names,
    plan_attack,
)

# Steps, loss, random start and restarts, as the names say.
SETTINGS = {
    'fgsm': (FGSM, 1, 'ce', False, 1),
    'pgd20': (PGD, 20, 'ce', True, 1),
    'pgd100': (PGD, 100, 'ce', True, 5),
    'cw20': (PGD, 20, 'margin', True, 1),
    'cw100': (PGD, 100, 'margin', True, 1),
}
PARTS = ('apgd-ce', 'apgd-dlr', 'apgd-t', 'fab-t', 'square', 'malt')


def test_names() -> None:
    others = ('autoattack', 'malt', 'autoattack-rand', 'transfer')
    assert ATTACK_NAMES == ('clean', *SETTINGS, *PARTS[:-1], *others)
    assert set(DEFAULT_ATTACKS) <= set(ATTACK_NAMES)


@pytest.mark.parametrize('name', SETTINGS)
def test_attack_is_what_its_name_says(name: str) -> None:
    plan = plan_attack(name, 10)
    [(part, config)] = plan.parts
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        attack = TASK_UTILS.build(config)
    assert part == plan.name == name
    assert plan.note is None
    found = type(attack), attack.steps, attack.loss, attack.random_start
    assert SETTINGS[name] == (*found, attack.restarts)
    # A quarter of the radius, or all of it, whatever the radius is.
    assert attack.step_size is None
    assert attack.bn_mode == 'eval'


SOME = [NAMED_ATTACKS[n] for n in ('fgsm', 'pgd20', 'pgd100', 'cw20')]


@pytest.mark.parametrize('record', [*SOME, SECOND_OPINION])
def test_no_more_passes_than_the_record_says(record: NamedAttack) -> None:
    class Strong(nn.Module):
        """Never fooled, so that no image leaves the attack."""

        calls = 0

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            return images.mean((1, 2, 3))[:, None] * 0.01 + torch.eye(2)[:1]

    model, images = Strong(), torch.rand(2, 3, 2, 2)
    attack = TASK_UTILS.build(record.config)
    labels = torch.tensor([0, 0])
    attack(model, images, labels, ThreatModel(), stop_when_fooled=True)
    assert 0.9 * record.passes - 2 < model.calls <= record.passes


@pytest.mark.parametrize('name', NAMED_ATTACKS)
def test_the_record_is_that_of_the_attack(name: str) -> None:
    record = NAMED_ATTACKS[name]
    assert record.black_box == (name in ('square', 'transfer'))
    if name == 'transfer':
        return
    attack: Attack = TASK_UTILS.build(record.config)
    assert record.black_box == attack.black_box
    assert record.single_step == isinstance(attack, FGSM)
    assert record.climbs == ((attack.steps or 0) > 1)
    if isinstance(attack, PGD):
        assert record.loss == attack.loss
    else:
        assert isinstance(attack, AutoAttack)
        wanted = [name] if name in PARTS else attack.components(10)
        parts = [
            (part, built.attacks, built.seed, built.version)
            for part, config in plan_attack(name, 10, seed=7).parts
            for built in [TASK_UTILS.build(config)]
        ]
        assert parts == [(n, [n], 7, attack.version) for n in wanted]


def test_autoattack_on_few_classes() -> None:
    assert plan_attack('autoattack', 10).note is None
    three = plan_attack('autoattack', 3)
    assert 'apgd-t' not in dict(three.parts)
    assert 'with 3 classes' in str(three.note)


def test_attacks_of_other_packages() -> None:
    for name, kind in (
        ('torchattacks.DIFGSM', 'TorchAttacks'),
        ('foolbox.L2PGD', 'Foolbox'),
    ):
        [(part, config)] = plan_attack(name, 10, seed=7).parts
        inner = name.partition('.')[2]
        expected = dict(type=f'm2at_mm.{kind}', name=inner, seed=7)
        assert (part, config) == (name, expected)
    check_attack_names(['torchattacks.DIFGSM', 'foolbox.L2PGD'], False)
    wrong = ['torchattacks.Square', 'foolbox.DIFGSM', 'other.PGD']
    with pytest.raises(ValueError, match=re.escape(str(wrong))):
        check_attack_names([*wrong, 'foolbox.LinfPGD'], False)


def test_plans_are_copies() -> None:
    plan_attack('pgd20', 10).parts[0][1]['steps'] = 1
    assert plan_attack('pgd20', 10).parts[0][1]['steps'] == 20
    surrogate = dict(checkpoint='a.pth', surrogate=dict(type='b'))
    [(_, config)] = plan_attack('transfer', 10, transfer=surrogate).parts
    assert config == dict(surrogate, type='m2at_mm.Transfer')


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (['pgd20', 'p', 'q'], r"\['p', 'q'\] are unknown.*'clean', 'fgsm'"),
        (['transfer'], 'give --transfer CONFIG CHECKPOINT'),
    ],
)
def test_wrong_names(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_attack_names(names, has_surrogate=False)
    check_attack_names(['clean', 'transfer', 'square'], has_surrogate=True)
