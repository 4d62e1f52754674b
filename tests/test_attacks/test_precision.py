"""Attacks under autocast, and on models of every precision."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from quick_autoattack import quick_autoattack
from tiny import skip_unless_computed
from torch import Tensor, nn

from m2at_mm.attacks import FGSM, NFGSM, PGD, AutoAttack, ThreatModel
from m2at_mm.attacks.context import attack_mode

THREAT = ThreatModel()
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
ATTACKS: dict[str, Callable[..., Any]] = {
    'pgd': partial(PGD, steps=3, restarts=2),
    'margin': partial(PGD, steps=3, loss='margin'),
    'kl': partial(PGD, steps=3, loss='kl'),
    'fgsm': FGSM,
    'n-fgsm': NFGSM,
}


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


@pytest.mark.parametrize('name', ['pgd', 'fgsm', 'n-fgsm', 'autoattack'])
@pytest.mark.parametrize('full', [False, True])
def test_full_precision_leaves_autocast(name: str, full: bool) -> None:
    torch.manual_seed(0)
    model, images = Recorder(), torch.rand(4, 3, 2, 2)
    if name == 'autoattack':  # always in full precision
        attack, full = AutoAttack(['apgd-ce']), True
    else:
        attack = ATTACKS[name](full_precision=full)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = attack(model, images, torch.tensor([0, 1, 2, 0]), THREAT)
        assert found.dtype == torch.float32
        inside = model.seen.copy()
        assert model(images).dtype == torch.bfloat16  # autocast is back
    assert inside == {torch.float32 if full else torch.bfloat16}


def _signs(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with attack_mode(model):
        images = images.clone().requires_grad_(True)
        loss = F.cross_entropy(model(images).float(), labels, reduction='sum')
        return torch.autograd.grad(loss, images)[0].sign()


@pytest.mark.slow
@pytest.mark.parametrize(
    'device', ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]
)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_agrees_on_a_robust_model(
    dtype: Any, device: str, robust_model: nn.Module, cifar10_images: Callable
) -> None:
    """Signs of the gradient, and robust accuracy on 200 images."""
    if device == 'cuda' and not torch.cuda.is_available():
        pytest.skip('no CUDA device')
    images, labels = (part.to(device) for part in cifar10_images(200))
    model = robust_model.to(device)
    start = THREAT.ball(images).random_start()
    signs, robust = [], []
    for half in (False, True):
        torch.manual_seed(0)
        with torch.autocast(device, dtype, enabled=half):
            signs.append(_signs(model, start, labels))
            found = PGD(steps=10)(model, images, labels, THREAT)
        with torch.no_grad():  # what is measured is the float32 model
            right = model(found).argmax(1) == labels
        robust.append(100 * right.float().mean().item())
    share = 0.97 if dtype == torch.bfloat16 else 0.99
    assert (signs[0] == signs[1]).float().mean() >= share
    assert robust[0] > 20
    assert abs(robust[0] - robust[1]) <= 1.0


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


@pytest.mark.parametrize('shape', [('linf', 1), ('l2', 3), ('linf', 4)])
@pytest.mark.parametrize('given', [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('name', [*ATTACKS, 'autoattack'])
def test_the_state_of_an_attack_is_precise(
    name: str, dtype: torch.dtype, given: torch.dtype, shape: tuple
) -> None:
    skip_unless_computed(dtype)
    norm, channels = shape
    if 'fgsm' in name:
        norm = 'linf'  # single steps are its own
    torch.manual_seed(0)
    model = Linear(channels).eval().to(dtype)
    images = torch.rand(4, channels, 9, 14).to(given)
    labels = model(images.to(dtype)).argmax(1)
    threat = ThreatModel(norm, 8 / 255 if norm == 'linf' else 0.5)
    attack = ATTACKS.get(name, lambda: AutoAttack(['apgd-ce', 'square']))()
    with quick_autoattack():
        found = attack(model, images, labels, threat)
    precise = torch.promote_types(given, torch.float32)
    assert found.dtype == precise
    clean = images.to(precise)
    # N-FGSM leaves the ball, as its authors have it.
    assert name == 'n-fgsm' or threat.ball(clean).contains(found).all()
    changed = (found - clean).abs() > 1e-4
    # In half precision a perturbation would be lost near white.
    assert name == 'autoattack' or changed.float().mean() > 0.5
