"""Gradients of functions that are known in closed form."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from m2at_mm.attacks import ThreatModel
from m2at_mm.evaluation import gradient_probes


class Curve(nn.Module):
    """The margin of class 0 is a function of the mean of the pixels."""

    def __init__(self, curve: Any) -> None:
        super().__init__()
        self.curve = curve

    def forward(self, images: Tensor) -> Tensor:
        lead = self.curve(images.double().mean((1, 2, 3)))
        return torch.stack([lead, torch.zeros_like(lead)], 1)


SHORT, LONG = 0.25 / 255, 1 / 255


def wave(x: Tensor) -> Tensor:
    """Falls and rises again within the long step."""
    return 1 + torch.sin(2 * torch.pi * x / LONG) * LONG


@pytest.mark.parametrize('norm', ['linf', 'l2'])
@pytest.mark.parametrize(
    ('curve', 'short', 'long', 'misled'),
    [
        (lambda x: 1 + x, 1.0, 1.0, False),
        (lambda x: 1 + x.detach() + 3 * (x - x.detach()), 1 / 3, 1 / 3, False),
        (lambda x: 1 + 2 * x.detach() - x, -1.0, -1.0, True),
        (lambda x: 1 + 0 * x, 0.0, 0.0, True),
        (wave, None, 0.0, None),
    ],
    ids=['line', 'third', 'reversed', 'flat', 'wave'],
)
def test_realised_steps(
    curve: Any, short: Any, long: float, misled: Any, norm: str
) -> None:
    torch.manual_seed(0)
    images = 0.3 + 0.4 * torch.rand(6, 3, 5, 4)
    labels = torch.zeros(6, dtype=torch.long)
    threat = ThreatModel(norm, '8/255')
    given = Curve(curve), images, labels, threat
    found = gradient_probes.realised_steps(*given)
    # Every second image, at three places.
    assert found['realised_long'].shape == (3, 3)
    for name, value in (('short', short), ('long', long)):
        if value is not None:
            expected = torch.full((3, 3), value, dtype=torch.float64)
            ratios = found[f'realised_{name}']
            assert torch.allclose(ratios, expected, atol=1e-2)
    if misled is not None:
        assert found['misled'].tolist() == 3 * [misled]


def test_rounding_is_no_sign() -> None:
    """In half precision a small step changes nothing, or too much."""
    images = torch.full((2, 3, 4, 4), 0.5)
    labels = torch.zeros(2, dtype=torch.long)

    class Half(Curve):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).half()

    given = Half(lambda x: 100 + x), images, labels, ThreatModel()
    found = gradient_probes.realised_steps(*given)
    assert not found['misled'].any()


def test_cosine() -> None:
    one = torch.tensor([3.0, 4, 0, 1, torch.nan]).view(5, 1, 1, 1)
    one = torch.cat([one, torch.ones(5, 1, 1, 1)], 3)
    other = torch.stack([one[0], -one[1], one[2] * 5, 0 * one[3], one[4]])
    found = gradient_probes.cosine(one, other)
    assert found.tolist() == pytest.approx([1, -1, 1, 0, 1])
