"""What holds for every attack."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from quick_autoattack import quick_autoattack
from torch import Tensor, nn

from m2at_mm.attacks import FGSM, NFGSM, PGD, Attack, AutoAttack, ThreatModel
from m2at_mm.attacks.context import BN_MODES

ATTACKS: dict[str, Attack] = {
    'pgd': PGD(steps=2),
    'kl': PGD(steps=2, loss='kl'),
    'fgsm': FGSM(),
    'n-fgsm': NFGSM(),
    'autoattack': AutoAttack(),
}
EACH = pytest.mark.parametrize('name', ATTACKS)


class ReturnsTuple(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (images.flatten(1),)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 5))


@EACH
@pytest.mark.parametrize('stop', [False, True], ids=['all', 'until-fooled'])
@pytest.mark.parametrize(
    ('changes', 'error', 'message'),
    [
        (
            dict(target=torch.zeros(4, 1).long()),
            TypeError,
            r'int64 .*\(4, 1\)',
        ),
        (dict(target=torch.zeros(4)), TypeError, r'float32 of shape \(4,\)'),
        (
            dict(target=torch.full((4, 3), 1 / 3)),
            ValueError,
            '3 classes, but the model has 5',
        ),
        (
            dict(images=torch.rand(4, 3, 4, 4) * 255),
            ValueError,
            r'images must be in \[0, 1\].*divide 0-255 values by 255',
        ),
        (
            dict(images=torch.rand(4, 3, 4, 4) - 0.5),
            ValueError,
            r'images must be in \[0, 1\].*-0\.',
        ),
        (
            dict(images=torch.full((4, 3, 4, 4), torch.nan)),
            ValueError,
            r'images must be in \[0, 1\]',
        ),
        (
            dict(images=torch.ones(4, 3, 4, 4, dtype=torch.uint8)),
            TypeError,
            r'images must be floats.*torch\.uint8',
        ),
        (dict(images=torch.rand(3, 4, 4)), TypeError, r'W\).*\(3, 4, 4\)'),
        (dict(model=ReturnsTuple()), TypeError, 'ReturnsTuple returned a tup'),
        (
            dict(model=nn.Identity()),
            TypeError,
            r'Identity returned a tensor of shape \(4, 3, 4, 4\)',
        ),
    ],
)
def test_refuses(
    name: str, stop: bool, changes: dict, error: type, message: str
) -> None:
    arguments: dict[str, Any] = dict(
        model=linear(),
        images=torch.rand(4, 3, 4, 4),
        target=torch.tensor([0, 1, 2, 3]),
        threat_model=ThreatModel(),
        stop_when_fooled=stop,
    )
    with pytest.raises(error, match=message):
        ATTACKS[name](**arguments | changes)


@EACH
def test_the_range_is_not_checked_where_it_is_known(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('M2AT_MM_DEBUG')
    images, labels = torch.rand(4, 3, 4, 4) + 0.5, torch.tensor([0, 1, 2, 3])
    arguments = linear(), images, labels, ThreatModel()
    with quick_autoattack():
        ATTACKS[name](*arguments, check_range=False)


@pytest.mark.parametrize('norm', ['linf', 'l2'])
@pytest.mark.parametrize(
    'attack',
    [
        PGD(steps=2),
        PGD(steps=2, loss='kl', noise_std=0.01),
        FGSM(random_start=True),
        AutoAttack(['apgd-ce']),
        AutoAttack(['fab-t']),
    ],
    ids=['pgd', 'noise', 'fgsm', 'apgd-ce', 'fab-t'],
)
def test_at_radius_0_the_images_stay(attack: Attack, norm: str) -> None:
    model, images = linear(), torch.rand(4, 3, 4, 4)
    labels = model(images).argmax(1)
    adversarial = attack(model, images, labels, ThreatModel(norm, 0))
    assert torch.equal(adversarial, images)


@pytest.mark.parametrize('bn_mode', BN_MODES)
@pytest.mark.parametrize(
    ('kind', 'settings'),
    [
        (FGSM, {}),
        (FGSM, dict(loss='margin')),
        (PGD, dict(steps=3)),
        (PGD, dict(steps=3, loss='margin')),
        (PGD, dict(steps=3, loss='kl')),
        (PGD, dict(steps=3, restarts=2)),
        (PGD, dict(steps=2, random_start=False, step_size='16/255')),
    ],
    ids=str,
)
@pytest.mark.parametrize('norm, eps', [('linf', 8 / 255), ('l2', 128 / 255)])
def test_inside_ball_and_box_exactly(
    net: nn.Module,
    digits: tuple[Tensor, Tensor],
    norm: str,
    eps: float,
    kind: Callable[..., Attack],
    settings: dict,
    bn_mode: str,
) -> None:
    images = digits[0][:40].float()
    model = copy.deepcopy(net).float().train(bn_mode != 'eval')
    attack = kind(bn_mode=bn_mode, **settings)
    result = attack(model, images, digits[1][:40], ThreatModel(norm, eps))
    assert result.dtype == images.dtype and result.shape == images.shape
    assert result.min() >= 0 and result.max() <= 1
    exact = result.double() - images.double()
    order = torch.inf if norm == 'linf' else 2
    for change in (result - images, exact):
        sizes = change.flatten(1).norm(p=order, dim=1)
        assert sizes.max().item() <= eps
        # Digits are half black: the box lets no perturbation shrink to 0.
        assert sizes.min().item() > eps / 10


@EACH
def test_settings_survive_copies_and_pickles(name: str) -> None:
    attack = ATTACKS[name]
    for other in (copy.deepcopy(attack), pickle.loads(pickle.dumps(attack))):
        assert vars(other) == vars(attack)


def test_steps_that_a_guard_can_lower() -> None:
    threat_model = ThreatModel('linf', 0.1)
    lengths = {k: a.length_of_step(threat_model) for k, a in ATTACKS.items()}
    expected = dict.fromkeys(ATTACKS, 0.1) | dict(pgd=0.025, kl=0.025)
    assert lengths == expected | dict(autoattack=None)


def test_black_boxes() -> None:
    assert AutoAttack(['square']).black_box
    assert not any(attack.black_box for attack in ATTACKS.values())
    assert not AutoAttack(['apgd-ce', 'square']).black_box
