"""IAT against its published formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from m2at_mm.methods import IAT
from m2at_mm.methods.baselines import Mixup


def test_published_formula(
    check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = (
        Mixup(torch.tensor(0.3), torch.tensor([5, 4, 3, 2, 1, 0])),
        Mixup(torch.tensor(0.8), torch.tensor([1, 2, 0, 3, 5, 4])),
    )
    monkeypatch.setattr(IAT, 'draw', lambda self, images: drawn)

    def reference(net: Any) -> Tensor:
        halves = []
        both = check.images, check.adversarial
        for images, (lam, other) in zip(both, drawn):
            logits = net(lam * images + (1 - lam) * images[other])
            halves.append(
                lam * F.cross_entropy(logits, check.labels)
                + (1 - lam) * F.cross_entropy(logits, check.labels[other])
            )
        return sum(halves) / 2

    losses = check.compare('IAT', reference)
    assert losses.keys() == {'loss', 'adversarial_accuracy'}


def test_draws() -> None:
    torch.manual_seed(0)
    ratios = []
    for _ in range(500):
        clean, adversarial = IAT().draw(torch.zeros(5, 1, 1, 1))
        assert sorted(clean.partner.tolist()) == [0, 1, 2, 3, 4]
        assert clean.ratio != adversarial.ratio
        ratios.append(clean.ratio)
    assert torch.stack(ratios).mean().item() == pytest.approx(0.5, abs=0.05)
