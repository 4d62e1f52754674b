"""MART against its published formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import build_adversarial
from torch import Tensor

from m2at_mm.methods import MART

ROWS = torch.arange(6)


@pytest.mark.parametrize('beta', [5.0, 0.0])
def test_published_formula(check: Any, beta: float) -> None:
    def reference(net: Any) -> Tensor:
        p = net(check.images).softmax(1)
        q = net(check.adversarial).softmax(1)
        others = q.clone()
        others[ROWS, check.labels] = -1
        boosted = -q[ROWS, check.labels].log() - torch.log(
            1.0001 - others.max(1).values + 1e-12
        )
        divergence = (p * (p.log() - q.log())).sum(1)
        unsure = 1 - p[ROWS, check.labels]
        return boosted.mean() + beta * (divergence * unsure).mean()

    cfg = dict(type='m2at_mm.MART', beta=beta)
    check.compare(cfg, check.labels, reference)


def test_mixed_labels_are_refused_at_build_time() -> None:
    with pytest.raises(ValueError, match=r'needs hard labels.*batch_augments'):
        build_adversarial(
            method=dict(type='m2at_mm.MART'),
            data_preprocessor=dict(
                num_classes=10,
                batch_augments=dict(augments=dict(type='Mixup', alpha=0.8)),
            ),
        )


@pytest.mark.parametrize('beta', [-1, float('inf')])
def test_wrong_beta(beta: float) -> None:
    with pytest.raises(ValueError, match=f'beta={beta} must be a finite'):
        MART(beta=beta)
