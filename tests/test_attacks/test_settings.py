"""Attacks for training whose settings are in radii."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from m2at_mm.attacks import FGSM, NFGSM, PGD, ThreatModel, pgd
from m2at_mm.registry import TASK_UTILS

EPS = 8 / 255


class Linear(nn.Module):
    """Logits (0, w.x): the cross-entropy's sign is that of w everywhere."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(48, generator=generator))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach().clone())
        score = images.flatten(1) @ self.w
        return torch.stack([torch.zeros_like(score), score], 1)


@pytest.fixture()
def images() -> Tensor:
    return torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))


LABELS = torch.zeros(5, dtype=torch.long)


def test_fgsm_rs_is_the_published_step(images: Tensor) -> None:
    model = Linear()
    attack = TASK_UTILS.build(
        dict(type='m2at_mm.FGSM', random_start=True, step=1.25)
    )
    torch.manual_seed(0)
    found = attack(model, images, LABELS, ThreatModel())
    [start] = model.seen
    assert (start - images).abs().max() <= EPS
    assert (start - images).abs().mean() > 0.3 * EPS  # uniform, not clean
    wanted = start + 1.25 * EPS * model.w.sign().view(3, 4, 4)
    wanted = torch.minimum(torch.maximum(wanted, images - EPS), images + EPS)
    torch.testing.assert_close(found, wanted.clamp(0, 1))


def test_n_fgsm_is_the_published_step(images: Tensor) -> None:
    model = Linear()
    torch.manual_seed(0)
    found = NFGSM()(model, images, LABELS, ThreatModel())
    [start] = model.seen
    noise = start - images
    assert 1.8 * EPS < noise.abs().max() <= 2 * EPS + 1e-6
    wanted = (start + EPS * model.w.sign().view(3, 4, 4)).clamp(0, 1)
    torch.testing.assert_close(found, wanted)
    assert (found - images).abs().max() > EPS  # not projected, by definition
    assert found.min() >= 0 and found.max() <= 1
    assert model.w.grad is None and not found.requires_grad


def test_start_near_the_image(images: Tensor) -> None:
    model = Linear()
    torch.manual_seed(0)
    pgd(
        model,
        images,
        LABELS,
        ThreatModel(),
        steps=1,
        noise_std=0.001,
    )
    [start] = model.seen
    inner = (images > 0.01) & (images < 0.99)  # the box cuts the others
    assert (start - images)[inner].std().item() == pytest.approx(1e-3, rel=0.2)


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: NFGSM(noise=-1.0), r'noise=-1\.0'),
        (lambda: NFGSM(step=0.0), r'step=0\.0'),
        (lambda: NFGSM(bn_mode='x'), "bn_mode='x'"),
        (lambda: FGSM(step=float('inf')), 'step=inf'),
        (lambda: PGD(noise_std=0.0), r'noise_std=0\.0 must be above 0'),
        (lambda: PGD(noise_std=2.0), r'noise_std=2\.0'),
        (
            lambda: PGD(noise_std=0.1, random_start=False),
            r'noise_std=0\.1 is a random start',
        ),
    ],
)
def test_wrong_settings(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]


def test_n_fgsm_needs_linf(images: Tensor) -> None:
    with pytest.raises(ValueError, match='N-FGSM is defined for linf'):
        NFGSM()(Linear(), images, LABELS, ThreatModel('l2', 0.5))
