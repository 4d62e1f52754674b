from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2at_mm.attacks import ThreatModel
from m2at_mm.reporting.loss_surface import loss_surfaces

EPS = 8 / 255


class Linear(nn.Module):
    """Two classes by one direction of the image."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> Tensor:
        score = ((images - 0.5) * self.weight).flatten(1).sum(1)
        return torch.stack([-score, score], 1)


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_closed_form_along_the_gradient(norm: str) -> None:
    weight = torch.randn(
        1, 3, 4, 4, generator=torch.Generator().manual_seed(1)
    )
    images = torch.full((1, 3, 4, 4), 0.5)
    (surface,) = loss_surfaces(
        Linear(weight),
        images,
        torch.tensor([1]),
        ThreatModel(norm, '8/255'),
        points=5,
    )
    # The score falls by eps times the dual norm of its gradient.
    dual = weight.abs().sum() if norm == 'linf' else weight.norm()
    score = -EPS * dual * torch.linspace(-1, 1, 5)
    expected = F.softplus(-2 * score)
    assert surface.loss.shape == surface.margin.shape == (5, 5)
    np.testing.assert_allclose(surface.loss[2], expected, rtol=1e-4)
    np.testing.assert_allclose(
        surface.margin[2], -2 * score, rtol=1e-4, atol=1e-6
    )


def test_corners_of_the_box_and_the_model_are_respected() -> None:
    seen: list[Tensor] = []

    class Watched(Linear):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.detach())
            return super().forward(images)

    model = Watched(torch.ones(1, 3, 4, 4)).train()
    images = torch.rand(2, 3, 4, 4).round()
    loss_surfaces(model, images, torch.tensor([0, 1]), ThreatModel(), points=3)
    everything = torch.cat(seen)
    assert everything.min() >= 0 and everything.max() <= 1
    assert model.training and model.weight.requires_grad
    assert model.weight.grad is None
