from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor


@pytest.mark.parametrize('target', ['labels', 'scores'])
def test_cross_entropy_on_adversarial_images(check: Any, target: str) -> None:
    calls = []

    def attack(
        model: Any, images: Tensor, given: Tensor, threat_model: Any
    ) -> Tensor:
        calls.append((images, given.tolist(), threat_model))
        return check.adversarial

    wanted = getattr(check, target)
    losses = check.step('PGDAT', attack, check.adversarial, wanted)

    assert losses['kept_share'] == 1
    [(images, given, threat_model)] = calls
    assert images is check.images
    assert given == wanted.tolist()
    assert threat_model.to_dict() == {'norm': 'linf', 'eps': 8 / 255}
