"""What holds for every attack."""

import copy
import pickle
from typing import Any

import pytest
import torch
from quick_autoattack import quick_autoattack
from torch import Tensor, nn

from m2at_mm.attacks import FGSM, NFGSM, PGD, Attack, AutoAttack, ThreatModel

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


IMAGES, LABELS = torch.rand(4, 3, 4, 4), torch.tensor([0, 1, 2, 3])
THREE = torch.full((4, 3), 1 / 3)


@EACH
@pytest.mark.parametrize('stop', [False, True], ids=['all', 'until-fooled'])
@pytest.mark.parametrize(
    ('argument', 'value', 'error', 'message'),
    [
        ('target', torch.zeros(4, 1).long(), TypeError, r'int64 .*\(4, 1\)'),
        ('target', torch.zeros(4), TypeError, r'float32 of shape \(4,\)'),
        ('target', THREE, ValueError, '3 classes, but .* 5'),
        ('images', IMAGES * 255, ValueError, r'in \[0, 1\].*divide 0-255 val'),
        ('images', IMAGES - 0.5, ValueError, r'must be in \[0, 1\].*-0\.'),
        ('images', IMAGES * torch.nan, ValueError, r'must be in \[0, 1\]'),
        ('images', IMAGES.byte(), TypeError, r'must be floats.*torch\.uint8'),
        ('images', IMAGES[0], TypeError, r'W\).*\(3, 4, 4\)'),
        ('model', ReturnsTuple(), TypeError, 'ReturnsTuple returned a tup'),
        ('model', nn.Identity(), TypeError, r'Identity returned .*3, 4, 4\)'),
    ],
)
def test_refuses(
    name: str, stop: bool, argument: str, value: Any, error: type, message: str
) -> None:
    given = dict(model=linear(), images=IMAGES, target=LABELS)
    given |= {argument: value, 'threat_model': ThreatModel()}
    with pytest.raises(error, match=message):
        ATTACKS[name](**given, stop_when_fooled=stop)


@EACH
def test_a_known_range_is_not_checked(name: str, monkeypatch: Any) -> None:
    monkeypatch.delenv('M2AT_MM_DEBUG')
    arguments = linear(), IMAGES + 0.5, LABELS, ThreatModel()
    with quick_autoattack():
        ATTACKS[name](*arguments, check_range=False)


RANDOM = [PGD(steps=2, loss='kl', noise_std=0.01), FGSM(random_start=True)]
RANDOM += [AutoAttack(['apgd-ce', 'fab-t'])]


@pytest.mark.parametrize('norm', ['linf', 'l2'])
@pytest.mark.parametrize('attack', RANDOM)
def test_at_radius_0_the_images_stay(attack: Attack, norm: str) -> None:
    model = linear()
    labels = model(IMAGES).argmax(1)
    adversarial = attack(model, IMAGES, labels, ThreatModel(norm, 0))
    assert torch.equal(adversarial, IMAGES)


def test_settings_survive_copies_and_tell_what_an_attack_is() -> None:
    threat_model, lengths = ThreatModel('linf', 0.1), {}
    for name, attack in ATTACKS.items():
        for other in copy.deepcopy(attack), pickle.loads(pickle.dumps(attack)):
            assert vars(other) == vars(attack)
        lengths[name] = attack.length_of_step(threat_model)
        assert not attack.black_box
    expected = dict.fromkeys(ATTACKS, 0.1) | dict(pgd=0.025, kl=0.025)
    assert lengths == expected | dict(autoattack=None)
    assert AutoAttack(['square']).black_box
    assert not AutoAttack(['apgd-ce', 'square']).black_box
