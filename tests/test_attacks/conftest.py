"""A small real network on real images, in double precision.

What two ways of computing agree in does not depend on rounding then.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from m2at_mm.attacks import ThreatModel, pgd

Digits = tuple[Tensor, Tensor]


def _load(part: slice) -> Digits:
    """Some of scikit-learn's digits, shape (N, 1, 8, 8), and labels."""
    data = load_digits()
    images = torch.from_numpy(data.images[part]).unsqueeze(1) / 16
    return images, torch.from_numpy(data.target[part]).long()


@pytest.fixture(scope='session')
def digits() -> Digits:
    """300 digits that the network was not trained on."""
    return _load(slice(1400, 1700))


@pytest.fixture(scope='session')
def net() -> nn.Module:
    """A digits classifier in eval mode, trained on clean images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 10),
        ).double()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    images, labels = _load(slice(400))
    for _ in range(25):
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return net.eval()


@pytest.fixture
def attacked(net: nn.Module, digits: Digits) -> Callable[..., Tensor]:
    """PGD on the first digits under linf, from the same random starts."""

    def attack(eps: float, num: int = 300, norm: str = 'linf', **k) -> Tensor:  # type: ignore[no-untyped-def]
        model, target = k.pop('model', net), k.pop('target', digits[1][:num])
        draw = torch.Generator().manual_seed(k.pop('seed', 0))
        threat_model = ThreatModel(norm, eps)
        images = digits[0][:num]
        k.setdefault('generator', draw)
        return pgd(model, images, target, threat_model, **k)

    return attack
