from collections.abc import Callable
from typing import Any

import pytest
import torch
from planted_models import Ripple
from torch import Tensor, nn

from m2at_mm.attacks import PGD, SecondOpinion, ThreatModel


class Linear(nn.Module):
    """The first class where the images are bright, with flat gradients."""

    def __init__(self, bend: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.bend = bend

    def forward(self, images: Tensor) -> Tensor:
        bright = self.bend(images.mean((1, 2, 3)) - 0.5)
        return torch.stack([bright, -bright], 1)


# What a gradient says of a mean of pixels that must fall by 0.02.
BENDS: dict[str, Callable[[Tensor], Tensor]] = {
    'as it is': lambda x: x,
    'reversed': lambda x: 2 * x.detach() - x,
    'zero': lambda x: x.detach() + 0 * x,
}


@pytest.mark.parametrize('norm', ['linf', 'l2'])
@pytest.mark.parametrize('bend', BENDS)
def test_finds_what_a_gradient_hides(bend: str, norm: str) -> None:
    torch.manual_seed(0)
    images = torch.full((8, 3, 6, 5), 0.51)
    labels = torch.zeros(8, dtype=torch.long)
    # For l2 as long as the corner of the linf ball.
    threat = ThreatModel(norm, 0.1 if norm == 'linf' else 0.1 * 90**0.5)
    model = Linear(BENDS[bend])
    found = SecondOpinion()(model, images, labels, threat)
    assert bool(threat.ball(images).contains(found).all())
    fooled = model(found).argmax(1) == 1
    # Without any gradient squares find most of them.
    assert fooled.sum() >= (5 if bend == 'zero' else 8)


def test_no_weaker_than_clean(robust_model: Any, cifar10_images: Any) -> None:
    images, labels = cifar10_images(20)
    threat = ThreatModel()
    ripple = Ripple(robust_model, amplitude=0.3, frequency=2000)
    for model in (robust_model, ripple):
        found = SecondOpinion()(model, images, labels, threat)
        pgd = PGD(20, loss='margin')(model, images, labels, threat)
        with torch.no_grad():
            shown = (model(x).argmax(1) for x in (images, pgd, found))
            wrong = [int((one != labels).sum()) for one in shown]
        assert wrong[0] < wrong[2]
        if model is ripple:
            assert wrong[2] >= wrong[1]


@pytest.mark.parametrize('name', ['gradients', 'queries'])
def test_wrong_settings(name: str) -> None:
    with pytest.raises(ValueError, match=f'{name}=0'):
        SecondOpinion(**{name: 0})
