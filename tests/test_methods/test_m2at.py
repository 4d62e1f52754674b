import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from m2at_mm.methods import M2AT, MixRatios, mask_and_mix

N, K, EPS = 6, 4, 0.2
IMAGES = torch.rand(N, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 1, 1])

LABEL_OPTIONS = dict(clean_label=1.0, perturbed_label=1.0, scale=1.0)
LABEL_OPTIONS['label_order'] = 'perturbed'
DEFAULTS = dict(LABEL_OPTIONS, mask='rectangle', patch_size=4, mix_alpha=1.0)
DEFAULTS |= dict(pairing='self', consistency=0.0)


class FakeModel:
    """Records what it is trained on; class 1 scores highest."""

    num_classes = K

    def __init__(self, tells: bool = True) -> None:
        self.tells = tells
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.attacked: list[tuple] = []

    def attack(self, *args: Any) -> Tensor:
        self.attacked.append(args)
        return (args[1] + EPS).clamp(0, 1)

    def supervised_loss(self, images: Tensor, target: Tensor) -> Any:
        self.seen.append((images, target))
        logits = torch.eye(K)[1].repeat(len(images), 1)
        return {'loss': images.sum()}, logits if self.tells else None


# --- settings --------------------------------------------------------------


def test_defaults() -> None:
    """METHOD.md, section 2: hard labels, scale 1, one image."""
    method = M2AT(scale=2.0)
    assert vars(M2AT()) == DEFAULTS
    assert vars(method) == {**DEFAULTS, 'scale': 2.0}
    assert pickle.loads(pickle.dumps(method)) == method


# --- loss ------------------------------------------------------------------

# Whether the targets change, and with which options.
SETTINGS: list[tuple[bool, dict[str, Any]]] = [
    (False, {}),
    (False, dict(mask='pixel', scale=2.0)),
    (False, dict(mask='patch', patch_size=2)),
    (False, dict(label_order='literal')),
    (True, dict(clean_label=0.9, perturbed_label=0.5)),
    (True, dict(clean_label=0.9)),
    (True, dict(clean_label=0.9, perturbed_label=0.9)),
    (True, dict(perturbed_label=0.5, label_order='literal')),
    (True, dict(pairing='batch', mix_alpha=0.5)),
]


@pytest.mark.parametrize(('soft', 'settings'), SETTINGS, ids=str)
@pytest.mark.parametrize('given', ['labels', 'probabilities'])
def test_loss_of_mixed_images(soft: bool, settings: Any, given: str) -> None:
    target, scores = LABELS, torch.eye(K)[LABELS]
    if given == 'probabilities':
        target = scores = 0.1 + 0.6 * scores
    method, model = M2AT(**settings), FakeModel()
    torch.manual_seed(1)
    losses = method.loss(model, model.attack, IMAGES, target)
    torch.manual_seed(1)
    draws = method.draw(IMAGES)
    # The attack gets the model, the clean images and their labels, once.
    [(attacked, clean, towards)] = model.attacked
    assert attacked is model and clean is IMAGES and towards is target
    # The same draws give the same training images through mask_and_mix,
    # which has its own tests.
    options: Any = {k: vars(method)[k] for k in LABEL_OPTIONS}
    adversarial = (IMAGES + EPS).clamp(0, 1)
    mixed = mask_and_mix(IMAGES, adversarial, scores, draws, **options)
    [(trained, labels)] = model.seen
    assert torch.equal(trained, mixed.images)
    assert torch.equal(labels, mixed.target) if soft else labels is target
    assert losses == {
        'loss': trained.sum(),
        'kept_share': mixed.keep_map.mean((1, 2, 3)).mean(),
        'adversarial_accuracy': 50,  # half of the labels are predicted
    }


def test_classifier_without_logits_is_trained() -> None:
    model = FakeModel(tells=False)
    losses = M2AT().loss(model, model.attack, IMAGES, LABELS)
    assert losses.keys() == {'loss', 'kept_share'}


# --- draws -----------------------------------------------------------------


def draw(num: int, **settings: Any) -> MixRatios:
    torch.manual_seed(3)
    return M2AT(**settings).draw(torch.zeros(num, 3, 6, 6))


@pytest.mark.parametrize('alpha', [0.3, 1.0, 4.0])
def test_ratio_is_beta_distributed(alpha: float) -> None:
    num = 20000
    ratio = draw(num, mix_alpha=alpha).ratio.double()

    variance = 1 / (4 * (2 * alpha + 1))
    assert ratio.shape == (num,)
    assert ratio.min() >= 0 and ratio.max() <= 1
    assert abs(ratio.mean() - 0.5) < 4 * (variance / num) ** 0.5
    # The fourth central moment of Beta(a, a) gives the variance's error.
    fourth = 3 / (16 * (2 * alpha + 1) * (2 * alpha + 3))
    error = ((fourth - variance**2) / num) ** 0.5
    assert abs(ratio.var() - variance) < 4 * error


@pytest.mark.parametrize('mask', ['rectangle', 'pixel', 'patch'])
@pytest.mark.parametrize('alpha', [0.3, 1.0])
def test_half_of_the_perturbation_is_kept(mask: str, alpha: float) -> None:
    num = 20000
    mask_of, ratio, _ = draw(num, mask=mask, mix_alpha=alpha)

    area = mask_of.double().mean((1, 2, 3))
    share = ratio * area + (1 - ratio) * (1 - area)
    assert abs(share.mean() - 0.5) < 4 * share.std() / num**0.5


def test_partners_are_a_permutation_of_the_batch() -> None:
    first, again = (draw(30, pairing='batch') for _ in range(2))
    partner = first.partner.tolist()
    assert sorted(partner) == list(range(30)) != partner
    torch.testing.assert_close(first, again, rtol=0, atol=0)  # repeatable
    assert draw(30).partner is None


# --- consistency -----------------------------------------------------------


def test_consistency(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = M2AT().draw(check.images)
    monkeypatch.setattr(M2AT, 'draw', lambda self, images: drawn)
    lam = drawn.ratio.view(-1, 1, 1, 1)
    keep = torch.where(drawn.mask == 1, lam, 1 - lam)

    def reference(net: Any) -> Tensor:
        perturbation = check.adversarial - check.images
        mixed = net(check.images + keep * perturbation).softmax(1)
        clean = net(check.images).softmax(1)
        own = mixed[torch.arange(6), check.labels]
        divergence = (clean * (clean.log() - mixed.log())).sum(1)
        return -own.log().mean() + 4 * divergence.mean()

    losses = check.compare('M2AT', reference, consistency=4.0)
    assert losses['kept_share'].item() == pytest.approx(keep.mean().item())
    with pytest.raises(ValueError, match=r'consistency=2\.0 compares'):
        M2AT(consistency=2.0, pairing='batch')
