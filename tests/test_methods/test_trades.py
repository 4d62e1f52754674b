"""TRADES against its published formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from m2at_mm.methods import TRADES

ROWS = torch.arange(6)


@pytest.mark.parametrize('target', ['labels', 'scores'])
@pytest.mark.parametrize('beta', [6.0, 1.5])
def test_published_formula(check: Any, target: str, beta: float) -> None:
    truth = getattr(check, target)

    def reference(net: Any) -> Tensor:
        p = net(check.images).softmax(1)
        q = net(check.adversarial).softmax(1)
        if truth.ndim == 1:
            natural = -p.log()[ROWS, truth].mean()
        else:
            natural = -(truth * p.log()).sum(1).mean()
        return natural + beta * (p * (p.log() - q.log())).sum(1).mean()

    cfg = dict(type='m2at_mm.TRADES', beta=beta)
    losses = check.compare(cfg, truth, reference)
    expected = {'loss', 'loss_consistency', 'adversarial_accuracy'}
    assert losses.keys() == expected


@pytest.mark.parametrize('beta', [-1, float('inf')])
def test_wrong_beta(beta: float) -> None:
    with pytest.raises(ValueError, match=f'beta={beta} must be a finite'):
        TRADES(beta=beta)
