from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from m2at_mm.methods import TRADES


@pytest.mark.parametrize('target', ['labels', 'scores'])
@pytest.mark.parametrize('beta', [6.0, 1.5])
def test_published_formula(check: Any, target: str, beta: float) -> None:
    truth = getattr(check, target)

    def reference(net: Any) -> Tensor:
        clean, adversarial = net(check.images), net(check.adversarial)
        p = clean.softmax(1)
        q = adversarial.softmax(1)
        if truth.ndim == 1:
            natural = -p.log()[torch.arange(6), truth].mean()
        else:
            natural = -(truth * p.log()).sum(1).mean()
        robust = (p * (p.log() - q.log())).sum(1).mean()
        return natural + beta * robust

    losses = check.compare(
        dict(type='m2at_mm.TRADES', beta=beta),
        lambda *args: check.adversarial,
        truth,
        reference,
    )
    assert losses.keys() == {
        'loss',
        'loss_consistency',
        'kept_share',
        'adversarial_accuracy',
    }
    assert losses['kept_share'] == 1


def test_wrong_beta() -> None:
    with pytest.raises(ValueError, match=r'beta=-1 must be finite and at'):
        TRADES(beta=-1)
