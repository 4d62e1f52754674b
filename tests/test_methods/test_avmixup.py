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
        total = torch.zeros(())
        images, targets = [], []
        for n in range(6):  # one image at a time, as the paper writes it
            vertex = check.images[n] + 2 * (
                check.adversarial[n] - check.images[n]
            )
            vertex = vertex.clip(0, 1)
            a = draws[n]
            images.append(a * check.images[n] + (1 - a) * vertex)
            y = F.one_hot(check.labels[n], 10).float()
            smooth = torch.where(y == 1, 0.1, 0.9 / 9)
            targets.append(a * y + (1 - a) * smooth)
        logits = net(torch.stack(images))
        for row, target in zip(logits, targets):
            total = total - (target * row.log_softmax(0)).sum() / 6
        return total

    losses = check.compare(
        dict(type='m2at_mm.AVmixup'),
        lambda *args: check.adversarial,
        check.labels,
        reference,
    )
    assert losses['kept_share'] == pytest.approx(1 - draws.mean().item())


def test_draws_are_uniform_and_per_image() -> None:
    draws = AVmixup().draw(torch.zeros(4000, 1, 1, 1))
    assert draws.shape == (4000,)
    assert draws.min() >= 0 and draws.max() <= 1
    assert draws.mean().item() == pytest.approx(0.5, abs=0.03)
    assert draws.var().item() == pytest.approx(1 / 12, abs=0.01)


@pytest.mark.parametrize(
    'settings',
    [dict(gamma=0.5), dict(clean_label=1.1), dict(vertex_label=-0.1)],
    ids=str,
)
def test_wrong_settings(settings: dict[str, float]) -> None:
    [(name, value)] = settings.items()
    with pytest.raises(ValueError, match=f'{name}={value}'):
        AVmixup(**settings)
