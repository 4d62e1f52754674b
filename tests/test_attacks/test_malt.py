"""MALT on linear models, where its order of classes is exact."""

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from m2at_mm.attacks import AutoAttack, ThreatModel
from m2at_mm.attacks import malt as module


def _linear(num_classes: int, size: int) -> nn.Sequential:
    torch.manual_seed(0)
    layer = nn.Linear(size, num_classes)
    # Rows of very different length, so that logits say little of distances.
    layer.weight.data *= torch.logspace(0, 2, num_classes).unsqueeze(1)
    layer.bias.data.copy_(-0.5 * layer.weight.data.sum(1))
    return nn.Sequential(nn.Flatten(), layer).requires_grad_(False)


def _distances(
    model: nn.Sequential, images: Tensor, labels: Tensor, dual: int
) -> Tensor:
    """From each image to the boundary of each class, in closed form."""
    logits, weight = model(images), model[1].weight
    lead = logits.gather(1, labels.unsqueeze(1)) - logits
    slope = (weight[labels].unsqueeze(1) - weight).norm(dual, dim=2)
    distances = lead / slope
    return distances.scatter(1, labels.unsqueeze(1), torch.inf)


@pytest.mark.parametrize('num_classes', [2, 3, 10, 40])
@pytest.mark.parametrize(('norm', 'dual'), [('linf', 1), ('l2', 2)])
def test_fools_exactly_what_is_near_a_boundary(
    num_classes: int, norm: str, dual: int
) -> None:
    model = _linear(num_classes, 48)
    images = 0.3 + 0.4 * torch.rand(24, 3, 4, 4)
    labels = model(images).argmax(1)
    nearest = _distances(model, images, labels, dual).amin(1)
    eps = float(nearest.median())
    clear = (nearest / eps - 1).abs() > 0.02
    found = AutoAttack(['malt'])(model, images, labels, ThreatModel(norm, eps))
    fooled = model(found).argmax(1) != labels
    assert torch.equal(fooled[clear], (nearest < eps)[clear])


def test_nearest_classes_come_first() -> None:
    model = _linear(30, 48)
    images = 0.3 + 0.4 * torch.rand(9, 3, 4, 4)
    labels = model(images).argmax(1)
    expected = _distances(model, images, labels, 1).argsort(1)
    apgd = mock.Mock(model=model, norm='Linf', n_target_classes=9)
    found = module._nearest_classes(apgd, images, labels)
    assert torch.equal(found, expected[:, :9])
    # Only the most likely classes are put in order.
    with mock.patch.object(module, '_CANDIDATES', 3):
        few = module._nearest_classes(apgd, images, labels)
    likely = model(images).argsort(1, descending=True)[:, 1:4]
    assert torch.equal(few.sort(1).values, likely.sort(1).values)


def test_agrees_with_apgd_on_all_targets(
    robust_model: nn.Module, cifar10_images: Callable
) -> None:
    images, labels = cifar10_images(16)
    left = []
    for name in ('apgd-t', 'malt'):
        found = AutoAttack([name])(robust_model, images, labels, ThreatModel())
        with torch.no_grad():
            left.append(robust_model(found).argmax(1) == labels)
    assert 0 < left[1].sum() < 16
    assert (left[0] != left[1]).sum() <= 1
