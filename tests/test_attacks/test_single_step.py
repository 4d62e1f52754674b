import pytest
import torch
from torch import Tensor, nn

from m2at_mm.attacks import FGSM, NFGSM, ThreatModel
from m2at_mm.registry import TASK_UTILS

EPS = 8 / 255
LABELS = torch.zeros(5, dtype=torch.long)


class Linear(nn.Module):
    """Logits (0, w.x): the cross-entropy's sign is that of w everywhere."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(48, generator=generator))
        self.signs = self.w.detach().sign().view(3, 4, 4)
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach().clone())
        score = images.flatten(1) @ self.w
        return torch.stack([torch.zeros_like(score), score], 1)


IMAGES = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('loss', ['ce', 'margin'])
@pytest.mark.parametrize('eps', [0.0, EPS, 0.3])
def test_fgsm_is_one_signed_step_of_the_radius(eps: float, loss: str) -> None:
    model = Linear()
    found = FGSM(loss)(model, IMAGES, LABELS, ThreatModel('linf', eps))
    expected = (IMAGES + eps * model.signs).clamp(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_fgsm_under_an_l2_radius_above_1() -> None:
    threat_model = ThreatModel('l2', '300/255')
    result = FGSM()(Linear(), 0 * IMAGES + 0.5, LABELS, threat_model)
    # A step of the radius; some of its pixels stop at the box.
    change = (result - 0.5).flatten(1).norm(dim=1)
    assert ((change > 1) & (change <= 300 / 255)).all()


def test_fgsm_rs_is_the_published_step() -> None:
    model = Linear()
    cfg = dict(type='m2at_mm.FGSM', random_start=True, step=1.25)
    torch.manual_seed(0)
    found = TASK_UTILS.build(cfg)(model, IMAGES, LABELS, ThreatModel())
    [start] = model.seen
    assert (start - IMAGES).abs().max() <= EPS
    assert (start - IMAGES).abs().mean() > 0.3 * EPS  # uniform, not clean
    change = (start + 1.25 * EPS * model.signs - IMAGES).clamp(-EPS, EPS)
    torch.testing.assert_close(found, (IMAGES + change).clamp(0, 1))


def test_n_fgsm_is_the_published_step() -> None:
    model = Linear()
    torch.manual_seed(0)
    found = NFGSM()(model, IMAGES, LABELS, ThreatModel())
    [start] = model.seen
    noise = start - IMAGES
    assert 1.8 * EPS < noise.abs().max() <= 2 * EPS + 1e-6
    wanted = (start + EPS * model.signs).clamp(0, 1)
    torch.testing.assert_close(found, wanted)
    assert (found - IMAGES).abs().max() > EPS  # not projected, by definition
    assert found.min() >= 0 and found.max() <= 1
    assert model.w.grad is None and not found.requires_grad
    with pytest.raises(ValueError, match='N-FGSM is defined for linf'):
        NFGSM()(model, IMAGES, LABELS, ThreatModel('l2', 0.5))


@pytest.mark.parametrize(
    ('kind', 'settings', 'message'),
    [
        (NFGSM, dict(noise=-1.0), r'noise=-1\.0'),
        (NFGSM, dict(step=0.0), r'step=0\.0'),
        (NFGSM, dict(bn_mode='x'), "bn_mode='x'"),
        (FGSM, dict(step=float('inf')), 'step=inf'),
        (FGSM, dict(loss='kl'), r"loss='kl'.*'ce' or 'margin'"),
    ],
)
def test_wrong_settings(kind: type, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)
