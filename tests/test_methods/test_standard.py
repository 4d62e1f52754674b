"""Standard and PGDAT: the cross-entropy on given images."""

from __future__ import annotations

from typing import Any

import pytest
import torch.nn.functional as F
from torch import Tensor

from m2at_mm.methods import PGDAT, Standard


@pytest.mark.parametrize('target', ['labels', 'scores'])
@pytest.mark.parametrize(
    ('method', 'images', 'name'),
    [
        (Standard, 'images', 'accuracy'),
        (PGDAT, 'adversarial', 'adversarial_accuracy'),
    ],
)
def test_cross_entropy(
    check: Any, method: Any, images: str, name: str, target: str
) -> None:
    seen: list[Tensor] = []
    wanted = getattr(check, target)

    def reference(net: Any) -> Tensor:
        seen.append(net(getattr(check, images)))
        return F.cross_entropy(seen[0], wanted)

    cfg = dict(type=f'm2at_mm.{method.__name__}')
    losses = check.compare(cfg, wanted, reference)

    right = seen[0].argmax(1) == check.labels
    assert losses.keys() == {'loss', name}
    accuracy = 100 * right.float().mean().item()
    assert losses[name].item() == pytest.approx(accuracy)
    assert len(check.calls) == method().needs_attack
    for _, clean, given, threat_model in check.calls:
        assert clean is check.images
        assert given.tolist() == wanted.tolist()
        assert threat_model.to_dict() == {'norm': 'linf', 'eps': 8 / 255}
