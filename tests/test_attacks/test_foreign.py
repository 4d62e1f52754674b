"""Attacks of torchattacks and foolbox under our threat model."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from m2at_mm.attacks import PGD, Foolbox, ThreatModel, TorchAttacks
from m2at_mm.registry import TASK_UTILS

for package in ('torchattacks', 'foolbox'):
    pytest.importorskip(package)

# Shorter than by default where that takes minutes.
SHORT: dict[str, dict[str, Any]] = {
    'L2CarliniWagnerAttack': dict(
        binary_search_steps=3, steps=60, initial_const=10.0
    )
}
CASES = [
    (kind, norm, name)
    for kind in (TorchAttacks, Foolbox)
    for norm in ('linf', 'l2')
    for name in kind.names[norm]
]


class Network(nn.Module):
    """A small network with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = nn.Linear(8 * 15 * 15, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.conv(images - 0.5) * 4
        logits: Tensor = self.fc(hidden.relu().flatten(1))
        return logits


@pytest.mark.parametrize(('kind', 'norm', 'name'), CASES)
def test_an_attack_stays_in_the_ball(kind: Any, norm: str, name: str) -> None:
    """It also fools, draws the same again, and leaves all as it was."""
    torch.manual_seed(0)
    network = Network().train()
    images = torch.rand(6, 32, 32, 3).permute(0, 3, 1, 2)  # channels last
    with torch.no_grad():
        labels = network(images).argmax(1)
    threat_model = ThreatModel(norm, dict(linf=8 / 255, l2=0.5)[norm])
    config = dict(type=f'm2at_mm.{kind.__name__}', name=name)
    attack = TASK_UTILS.build(config | SHORT.get(name, {}))
    given, before = images.clone(), torch.get_rng_state()
    numpys = np.random.get_state()[1].copy()
    found = attack(network, images, labels, threat_model)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpys).all()
    assert torch.equal(given, images) and network.training
    assert all(
        p.requires_grad and p.grad is None for p in network.parameters()
    )
    assert threat_model.ball(images).contains(found).all()
    assert torch.equal(attack(network, images, labels, threat_model), found)
    # TPGD looks at no label, and TIFGSM at blurred gradients.
    fooled = network(found).argmax(1) != labels
    assert fooled.sum() >= (2 if name in ('TPGD', 'TIFGSM') else 4)


@pytest.mark.parametrize(
    ('kind', 'settings'),
    [
        (TorchAttacks, dict(name='PGD', steps=10, alpha='2/255')),
        (Foolbox, dict(name='LinfPGD', steps=10, abs_stepsize=2 / 255)),
    ],
)
def test_their_pgd_is_ours(
    kind: Any,
    settings: dict,
    robust_model: nn.Module,
    cifar10_images: Callable,
) -> None:
    images, labels = cifar10_images(100)
    threat_model, attacks = ThreatModel(), (PGD(10), kind(**settings))
    correct = [
        (robust_model(attack(robust_model, images, labels, threat_model)))
        .argmax(1)
        .eq(labels)
        .sum()
        .item()
        for attack in attacks
    ]
    assert correct[0] == pytest.approx(correct[1], abs=2)
    assert 10 < correct[0] < 60


@pytest.mark.parametrize(
    ('kind', 'settings', 'message'),
    [
        (TorchAttacks, dict(name='PGDD'), "^name='PGDD' is no .* choose from"),
        (TorchAttacks, dict(name='Square'), "name='Square' is no .* gradient"),
        (Foolbox, dict(name='GenAttack'), "^name='GenAttack' is no untarget"),
        (Foolbox, dict(name='L1PGD'), "name='L1PGD' .* under linf or l2"),
        (TorchAttacks, dict(name='PGD', eps=0.1), r'^eps=0\.1 .* threat_mod'),
        (TorchAttacks, dict(name='PGD', step=1), "torchattacks.PGD='step'"),
        (TorchAttacks, dict(name='PGD', model=1), "torchattacks.PGD='model'"),
        (Foolbox, dict(name='LinfPGD', abs_stepsize='2'), 'abs_stepsize'),
    ],
)
def test_wrong_settings(kind: Any, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_another_norm_or_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = torch.rand(1, 3, 32, 32), torch.zeros(1).long()
    with pytest.raises(ValueError, match=r'foolbox.LinfPGD does not .* in l2'):
        Foolbox('LinfPGD')(Network(), images, labels, ThreatModel('l2', 1.0))
    monkeypatch.setitem(sys.modules, 'torchattacks', None)
    with pytest.raises(ImportError, match=r"'m2at_mm\[attacks\]'"):
        TorchAttacks('PGD')
