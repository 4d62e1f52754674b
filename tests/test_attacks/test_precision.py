"""Attacks under autocast against attacks in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2at_mm.attacks import FGSM, NFGSM, PGD, ThreatModel, attack_mode, pgd

THREAT = ThreatModel()
ATTACKS: list[Callable[..., Any]] = [
    lambda **settings: PGD(steps=2, **settings),
    FGSM,
    NFGSM,
]


class Recorder(nn.Module):
    """A linear model that tells in which precision it computed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 3)
        self.seen: set[torch.dtype] = set()

    def forward(self, images: Tensor) -> Tensor:
        logits = self.layer(images.flatten(1))
        self.seen.add(logits.dtype)
        return logits


@pytest.mark.parametrize('attack', ATTACKS)
@pytest.mark.parametrize('full', [False, True])
def test_full_precision_leaves_autocast(
    attack: Callable[..., Any], full: bool
) -> None:
    torch.manual_seed(0)
    model, images = Recorder(), torch.rand(4, 3, 2, 2)
    labels = torch.tensor([0, 1, 2, 0])
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = attack(full_precision=full)(model, images, labels, THREAT)
        assert found.dtype == torch.float32
        assert model(images).dtype == torch.bfloat16  # autocast is back
    expected = torch.float32 if full else torch.bfloat16
    assert model.seen == {expected, torch.bfloat16}


def test_full_precision_is_float32(robust_model: nn.Module) -> None:
    images = torch.rand(4, 3, 32, 32, generator=_seeded())
    labels = torch.tensor([0, 1, 2, 3])
    plain = pgd(robust_model, images, labels, THREAT, generator=_seeded())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        full = pgd(
            robust_model,
            images,
            labels,
            THREAT,
            full_precision=True,
            generator=_seeded(),
        )
    assert torch.equal(plain, full)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _signs(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with attack_mode(model):
        images = images.clone().requires_grad_(True)
        loss = F.cross_entropy(model(images).float(), labels, reduction='sum')
        return torch.autograd.grad(loss, images)[0].sign()


@pytest.fixture(params=['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == 'cuda' and not torch.cuda.is_available():
        pytest.skip('no CUDA device')
    return request.param


@pytest.mark.slow
@pytest.mark.parametrize(
    ('dtype', 'share'), [('bfloat16', 0.97), ('float16', 0.99)]
)
def test_half_precision_agrees_on_a_robust_model(
    dtype: str,
    share: float,
    device: str,
    robust_model: nn.Module,
    cifar10_images: Callable[[int], tuple[Tensor, Tensor]],
) -> None:
    """Signs of the gradient, and robust accuracy on 200 images."""
    images, labels = cifar10_images(200)
    model = robust_model.to(device)
    images, labels = images.to(device), labels.to(device)
    half = torch.autocast(device, dtype=getattr(torch, dtype))
    start = THREAT.ball(images).random_start()
    full_signs = _signs(model, start, labels)
    with half:
        half_signs = _signs(model, start, labels)
    assert (full_signs == half_signs).float().mean() >= share

    settings: Any = dict(steps=10, generator=None)
    robust = []
    for context in (torch.autocast(device, enabled=False), half):
        torch.manual_seed(0)
        with context:
            found = pgd(model, images, labels, THREAT, **settings)
        with torch.no_grad():  # what is measured is the float32 model
            right = model(found).argmax(1) == labels
        robust.append(100 * right.float().mean().item())
    assert robust[0] > 20
    assert abs(robust[0] - robust[1]) <= 1.0
