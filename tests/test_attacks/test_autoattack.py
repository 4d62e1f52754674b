"""AutoAttack against the package called directly."""

import copy
import sys
from collections.abc import Callable

import pyautoattack
import pytest
import torch
from torch import nn

from m2at_mm.attacks import AutoAttack, ThreatModel, autoattack
from m2at_mm.registry import TASK_UTILS

ALL = ['apgd-ce', 'apgd-t', 'fab-t', 'square']


@pytest.mark.parametrize(
    'case',
    [
        (16, 'linf', '8/255', ['apgd-ce', 'apgd-t']),
        (16, 'linf', '8/255', ['apgd-dlr']),
        pytest.param((24, 'linf', '4/255', ALL), marks=pytest.mark.slow),
        pytest.param((24, 'l2', '128/255', ALL), marks=pytest.mark.slow),
    ],
)
def test_the_same_images_stay_correct_as_by_the_package(
    robust_model: nn.Module, cifar10_images: Callable, case: tuple
) -> None:
    num, norm, eps, attacks = case
    threat, (images, labels) = ThreatModel(norm, eps), cifar10_images(num)
    package = pyautoattack.AutoAttack(
        robust_model, norm=norm.capitalize(), eps=threat.eps, seed=0
    )
    package.attacks_to_run = attacks
    _, predicted = package.run_standard_evaluation(images, labels)
    found = AutoAttack(attacks)(robust_model, images, labels, threat)
    assert bool(threat.ball(images).contains(found).all())
    with torch.no_grad():
        ours = robust_model(found).argmax(1) == labels
    assert 0 < ours.sum() < len(ours)
    assert torch.equal(ours, predicted == labels)


def linear(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, num_classes))


@pytest.mark.parametrize('num_classes', [2, 3, 4, 10, 100])
@pytest.mark.parametrize('norm, eps', [('linf', '1/1'), ('l2', '1020/255')])
def test_any_number_of_classes(num_classes: int, norm: str, eps: str) -> None:
    torch.manual_seed(0)
    model, threat = linear(num_classes), ThreatModel(norm, eps)
    images = torch.rand(3, 3, 4, 4).to(memory_format=torch.channels_last)
    labels = model(images).argmax(1)
    names = autoattack.autoattack_components('standard', num_classes)
    # Square needs its 5000 queries only where all else fails.
    attack = AutoAttack([name for name in names if name != 'square'])
    adversarial = attack(model, images, labels, threat)
    assert bool(threat.ball(images).contains(adversarial).all())
    assert bool((model(adversarial).argmax(1) != labels).all())


@pytest.mark.parametrize(
    ('version', 'num_classes', 'expected', 'note'),
    [
        ('standard', 10, 'apgd-ce apgd-t fab-t square', None),
        ('standard', 100, 'apgd-ce apgd-t fab-t square', '9 of the 99 wrong'),
        ('standard', 4, 'apgd-ce apgd-t fab-t square', 'aiming at 3 classes'),
        ('standard', 3, 'apgd-ce apgd-dlr fab-t square', 'with 3 classes'),
        ('standard', 2, 'apgd-ce fab-t square', 'apgd-ce + fab-t + square'),
        ('rand', 100, 'apgd-ce apgd-dlr', None),
        ('rand', 2, 'apgd-ce', 'is apgd-ce'),
    ],
)
def test_components_by_classes(
    version: str, num_classes: int, expected: str, note: str | None
) -> None:
    found = autoattack.autoattack_components(version, num_classes)
    assert found == tuple(expected.split())
    assert AutoAttack(version=version).components(num_classes) == found
    told = autoattack.describe_reduction(version, num_classes)
    assert told is None if note is None else note in str(told)


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong settings, too few classes, and where the package is missing."""
    for settings, message in (
        (dict(attacks=['apgd']), r"attacks='apgd' is unknown.*'apgd-ce'"),
        (dict(version='plus'), "version='plus' is unknown"),
    ):
        with pytest.raises(ValueError, match=message):
            TASK_UTILS.build(dict(type='m2at_mm.AutoAttack', **settings))
    batch = torch.rand(1, 3, 4, 4), torch.tensor([0]), ThreatModel()
    with pytest.raises(ValueError, match="'apgd-t' compares 4 logits"):
        AutoAttack(attacks=['apgd-t'])(linear(3), *batch)
    monkeypatch.setitem(sys.modules, 'pyautoattack', None)
    with pytest.raises(ImportError, match=r'm2at_mm\[eval\]'):
        AutoAttack()


def test_global_random_stream_and_model_are_left_alone() -> None:
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(16, 4)).train()
    before = copy.deepcopy(model.state_dict())
    batch = torch.rand(2, 3, 4, 4), torch.tensor([0, 1]), ThreatModel()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    AutoAttack(attacks=['apgd-ce', 'fab-t'])(model, *batch)
    assert torch.equal(torch.rand(1), expected)
    assert model.training and model[1].training
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
