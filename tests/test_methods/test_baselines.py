"""Standard, PGDAT, TRADES and MART against their published losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import build_adversarial
from torch import Tensor

from m2at_mm.methods import MART, PGDAT, TRADES, Standard

ROWS = torch.arange(6)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p.log() - q.log())).sum(1)


@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize(
    ('method', 'images', 'name'),
    [
        (Standard, 'images', 'accuracy'),
        (PGDAT, 'adversarial', 'adversarial_accuracy'),
    ],
)
def test_cross_entropy(
    check: Any, method: Any, images: str, name: str, soft: bool
) -> None:
    seen: list[Tensor] = []
    wanted = check.scores if soft else check.labels

    def reference(net: Any) -> Tensor:
        seen.append(net(getattr(check, images)))
        return F.cross_entropy(seen[0], wanted)

    losses = check.compare(method.__name__, reference, soft=soft)

    right = seen[0].argmax(1) == check.labels
    assert losses.keys() == {'loss', name}
    accuracy = 100 * right.float().mean().item()
    assert losses[name].item() == pytest.approx(accuracy)
    assert len(check.calls) == method().needs_attack
    for _, clean, given, threat_model in check.calls:
        assert clean is check.images
        assert given.tolist() == wanted.tolist()
        assert threat_model.to_dict() == {'norm': 'linf', 'eps': 8 / 255}


@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize('beta', [6.0, 1.5])
def test_trades(check: Any, soft: bool, beta: float) -> None:
    truth = check.scores if soft else F.one_hot(check.labels, 10)

    def reference(net: Any) -> Tensor:
        p = net(check.images).softmax(1)
        q = net(check.adversarial).softmax(1)
        natural = -(truth * p.log()).sum(1).mean()
        return natural + beta * kl(p, q).mean()

    losses = check.compare('TRADES', reference, soft=soft, beta=beta)
    expected = {'loss', 'loss_consistency', 'adversarial_accuracy'}
    assert losses.keys() == expected


@pytest.mark.parametrize('beta', [5.0, 0.0])
def test_mart(check: Any, beta: float) -> None:
    def reference(net: Any) -> Tensor:
        p = net(check.images).softmax(1)
        q = net(check.adversarial).softmax(1)
        others = q.clone()
        others[ROWS, check.labels] = -1
        boosted = -q[ROWS, check.labels].log() - torch.log(
            1.0001 - others.max(1).values + 1e-12
        )
        unsure = 1 - p[ROWS, check.labels]
        return boosted.mean() + beta * (kl(p, q) * unsure).mean()

    check.compare('MART', reference, beta=beta)


def test_mart_refuses_mixed_labels_at_build_time() -> None:
    mixup = dict(augments=dict(type='Mixup', alpha=0.8))
    data = dict(num_classes=10, batch_augments=mixup)
    with pytest.raises(ValueError, match=r'needs hard labels.*batch_augments'):
        build_adversarial(
            method=dict(type='m2at_mm.MART'), data_preprocessor=data
        )


@pytest.mark.parametrize('method', [TRADES, MART])
@pytest.mark.parametrize('beta', [-1, float('inf')])
def test_wrong_beta(method: Any, beta: float) -> None:
    with pytest.raises(ValueError, match=f'beta={beta} must be a finite'):
        method(beta=beta)
