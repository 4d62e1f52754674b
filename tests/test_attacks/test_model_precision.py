"""Attacks on models of every precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from quick_autoattack import quick_autoattack
from torch import Tensor, nn

from m2at_mm.attacks import FGSM, NFGSM, PGD, AutoAttack, ThreatModel
from m2at_mm.attacks.logits import at_entrance

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
ATTACKS: dict[str, Any] = {
    'pgd': lambda: PGD(steps=3, restarts=2),
    'margin': lambda: PGD(steps=3, loss='margin'),
    'kl': lambda: PGD(steps=3, loss='kl'),
    'fgsm': FGSM,
    'n-fgsm': NFGSM,
    'autoattack': lambda: AutoAttack(attacks=['apgd-ce', 'square']),
}


class Linear(nn.Module):
    """A linear model with a batch norm that can be folded."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.layer = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == self.conv.weight.dtype
        return self.layer(self.norm(self.conv(images)).mean((2, 3)))


@pytest.mark.parametrize(
    ('norm', 'channels'), [('linf', 1), ('l2', 3), ('linf', 4)]
)
@pytest.mark.parametrize('given', [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('name', ATTACKS)
def test_the_state_of_an_attack_is_precise(
    name: str,
    dtype: torch.dtype,
    given: torch.dtype,
    norm: str,
    channels: int,
) -> None:
    if 'fgsm' in name and norm == 'l2':
        norm = 'linf'  # single steps are its own
    torch.manual_seed(0)
    model = Linear(channels).eval().to(dtype)
    images = torch.rand(4, channels, 9, 14).to(given)
    labels = model(images.to(dtype)).argmax(1)
    threat = ThreatModel(norm, 8 / 255 if norm == 'linf' else 0.5)
    if name == 'autoattack':
        pytest.importorskip('pyautoattack')
        images = images.float()
    with quick_autoattack():
        found = ATTACKS[name]()(model, images, labels, threat)
    precise = torch.promote_types(images.dtype, torch.float32)
    assert found.dtype == precise
    clean = images.to(precise)
    # N-FGSM leaves the ball, as its authors have it.
    assert name == 'n-fgsm' or threat.ball(clean).contains(found).all()
    changed = (found - clean).abs() > 1e-4
    # In half precision a perturbation would be lost near white.
    assert name == 'autoattack' or changed.float().mean() > 0.5


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_images_in_the_precision_of_the_parameters(
    dtype: torch.dtype,
) -> None:
    model = nn.Sequential(nn.Identity(), nn.Conv2d(1, 1, 1)).to(dtype)
    images = torch.rand(1, 1, 2, 2)
    assert at_entrance(model, images).dtype == dtype
    assert at_entrance(nn.Identity(), images) is images
