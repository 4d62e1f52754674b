from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from m2at_mm.methods import Standard


def attack(*_: Any) -> Tensor:
    raise AssertionError('standard training must not attack')


@pytest.mark.parametrize('target', ['labels', 'scores'])
def test_cross_entropy_on_clean_images(check: Any, target: str) -> None:
    losses = check.step(
        'Standard', attack, check.images, getattr(check, target)
    )

    assert losses['kept_share'] == 0


def test_needs_no_attack() -> None:
    assert not Standard().needs_attack
