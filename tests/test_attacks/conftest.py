"""A small real network on real images, in double precision.

What two ways of computing agree in does not depend on rounding then.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from m2at_mm.attacks import ThreatModel, pgd


def _load(part: slice) -> tuple[Tensor, Tensor]:
    """Some of scikit-learn's digits, shape (N, 1, 8, 8), and labels."""
    data = load_digits()
    images = torch.from_numpy(data.images[part]).unsqueeze(1) / 16
    return images, torch.from_numpy(data.target[part]).long()


class Digits:
    """A classifier, and 300 digits that it was not trained on."""

    def __init__(self) -> None:
        self.net = _trained_network()
        self.images, self.labels = _load(slice(1400, 1700))

    def attack(
        self, eps: float, num: int = 300, norm: str = 'linf', **settings: Any
    ) -> Tensor:
        """PGD on the first digits, from the same random starts."""
        model = settings.pop('model', self.net)
        target = settings.pop('target', self.labels[:num])
        draw = torch.Generator().manual_seed(settings.pop('seed', 0))
        settings = dict(generator=draw) | settings
        threat_model = ThreatModel(norm, eps)
        return pgd(model, self.images[:num], target, threat_model, **settings)

    def falls(self, *args: Any, **settings: Any) -> Tensor:
        """Which of the first digits the attack fools the network on."""
        return self.fooled(self.attack(*args, **settings))

    @torch.no_grad()
    def fooled(self, images: Tensor) -> Tensor:
        """Which adversarial images of the first digits are misclassified."""
        return self.net(images).argmax(1) != self.labels[: len(images)]


def _trained_network() -> nn.Module:
    """In eval mode, trained on clean images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
        layers += [nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()]
        net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10)).double()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    images, labels = _load(slice(400))
    for _ in range(25):
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return net.eval()


@pytest.fixture(scope='session')
def digits() -> Digits:
    return Digits()
