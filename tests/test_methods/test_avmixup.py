"""AVmixup against its published formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from m2at_mm.methods import AVmixup


def test_published_formula(
    check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = torch.tensor([0.0, 1.0, 0.5, 0.25, 0.9, 0.1])
    monkeypatch.setattr(AVmixup, 'draw', lambda self, images: draws)

    def reference(net: Any) -> Tensor:
        images, targets = [], []
        for n in range(6):  # one image at a time, as the paper writes it
            x, a = check.images[n], draws[n]
            vertex = (x + 2 * (check.adversarial[n] - x)).clip(0, 1)
            images.append(a * x + (1 - a) * vertex)
            y = F.one_hot(check.labels[n], 10).float()
            smooth = torch.where(y == 1, 0.1, 0.9 / 9)
            targets.append(a * y + (1 - a) * smooth)
        logits = net(torch.stack(images))
        return -(torch.stack(targets) * logits.log_softmax(1)).sum() / 6

    losses = check.compare('AVmixup', reference)
    assert losses.keys() == {'loss', 'kept_share', 'adversarial_accuracy'}
    assert losses['kept_share'] == pytest.approx(1 - draws.mean().item())


def test_draws_are_uniform_and_per_image() -> None:
    draws = AVmixup().draw(torch.zeros(4000, 1, 1, 1))
    assert draws.shape == (4000,)
    assert draws.min() >= 0 and draws.max() <= 1
    assert draws.mean().item() == pytest.approx(0.5, abs=0.03)
    assert draws.var().item() == pytest.approx(1 / 12, abs=0.01)


@pytest.mark.parametrize(
    'wrong', [dict(gamma=0.5), dict(clean_label=1.1), dict(vertex_label=-0.1)]
)
def test_wrong_settings(wrong: dict[str, float]) -> None:
    [(name, value)] = wrong.items()
    with pytest.raises(ValueError, match=f'{name}={value}'):
        AVmixup(**wrong)
