"""AutoAttack against the package called directly, MALT on linear models."""

import copy
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import pyautoattack
import pytest
import torch
from torch import Tensor, nn

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
    settings = dict(norm=norm.capitalize(), eps=threat.eps, seed=0)
    package = pyautoattack.AutoAttack(robust_model, **settings)
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


def _steep(num_classes: int, size: int) -> nn.Sequential:
    torch.manual_seed(0)
    layer = nn.Linear(size, num_classes)
    # Rows of very different length, so that logits say little of distances.
    layer.weight.data *= torch.logspace(0, 2, num_classes).unsqueeze(1)
    layer.bias.data.copy_(-0.5 * layer.weight.data.sum(1))
    return nn.Sequential(nn.Flatten(), layer).requires_grad_(False)


def _distances(model: Any, images: Any, labels: Any, dual: int) -> Tensor:
    """From each image to the boundary of each class, in closed form."""
    logits, weight = model(images), model[1].weight
    lead = logits.gather(1, labels.unsqueeze(1)) - logits
    slope = (weight[labels].unsqueeze(1) - weight).norm(dual, dim=2)
    distances = lead / slope
    return distances.scatter(1, labels.unsqueeze(1), torch.inf)


@pytest.mark.parametrize('num_classes', [2, 3, 10, 40])
@pytest.mark.parametrize(('norm', 'dual'), [('linf', 1), ('l2', 2)])
def test_fools_what_is_near(num_classes: int, norm: str, dual: int) -> None:
    model = _steep(num_classes, 48)
    images = 0.3 + 0.4 * torch.rand(24, 3, 4, 4)
    labels = model(images).argmax(1)
    nearest = _distances(model, images, labels, dual).amin(1)
    eps = float(nearest.median())
    clear = (nearest / eps - 1).abs() > 0.02
    found = AutoAttack(['malt'])(model, images, labels, ThreatModel(norm, eps))
    fooled = model(found).argmax(1) != labels
    assert torch.equal(fooled[clear], (nearest < eps)[clear])


def test_nearest_classes_come_first() -> None:
    model = _steep(30, 48)
    images = 0.3 + 0.4 * torch.rand(9, 3, 4, 4)
    labels = model(images).argmax(1)
    expected = _distances(model, images, labels, 1).argsort(1)
    apgd = mock.Mock(model=model, norm='Linf', n_target_classes=9)
    found = autoattack._nearest_classes(apgd, images, labels)
    assert torch.equal(found, expected[:, :9])
    # Only the most likely classes are put in order.
    with mock.patch.object(autoattack, '_CANDIDATES', 3):
        few = autoattack._nearest_classes(apgd, images, labels)
    likely = model(images).argsort(1, descending=True)[:, 1:4]
    assert torch.equal(few.sort(1).values, likely.sort(1).values)


def test_agrees_with_apgd(robust_model: Any, cifar10_images: Any) -> None:
    images, labels = cifar10_images(16)
    left = []
    for name in ('apgd-t', 'malt'):
        found = AutoAttack([name])(robust_model, images, labels, ThreatModel())
        with torch.no_grad():
            left.append(robust_model(found).argmax(1) == labels)
    assert 0 < left[1].sum() < 16
    assert (left[0] != left[1]).sum() <= 1
