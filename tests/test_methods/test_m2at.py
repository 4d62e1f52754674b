from __future__ import annotations

from typing import Any

import mmengine.registry
import mmpretrain.registry
import pytest
import torch
from mmengine.registry import DefaultScope, Registry
from torch import Tensor

from m2at_mm.methods import M2AT, MixRatios, mask_and_mix

N, K = 6, 4
EPS = 0.2
# METHOD.md, section 2: rectangle, uniform ratio, hard labels, scale 1, self.
DEFAULTS = dict(
    mask='rectangle',
    patch_size=4,
    mix_alpha=1.0,
    clean_label=1.0,
    perturbed_label=1.0,
    label_order='perturbed',
    scale=1.0,
    pairing='self',
    consistency=0.0,
)


class FakeModel:
    """Records what it is trained on; class 1 scores highest."""

    def __init__(self, num_classes: int | None = K) -> None:
        self.num_classes = num_classes
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, images: Tensor) -> Tensor:
        raise AssertionError('the method itself needs no logits')

    def supervised_loss(
        self, images: Tensor, target: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        self.seen.append((images, target))
        logits = torch.zeros(len(images), K)
        logits[:, 1] = 1
        return {'loss': images.sum()}, logits


class FakeAttack:
    """Adds EPS, inside the box; records what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Tensor, Tensor]] = []

    def __call__(self, model: Any, images: Tensor, target: Tensor) -> Tensor:
        self.calls.append((model, images, target))
        return (images + EPS).clamp(0, 1)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(N, 3, 8, 8, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([0, 1, 2, 3, 1, 1])


# --- settings --------------------------------------------------------------


def test_defaults() -> None:
    assert vars(M2AT()) == DEFAULTS


@pytest.mark.parametrize(
    ('option', 'value', 'hint'),
    [
        ('mask', 'circle', r"\['rectangle', 'pixel', 'patch'\]"),
        ('label_order', 'swapped', r"\['perturbed', 'literal'\]"),
        ('pairing', 'other', r"\['self', 'batch'\]"),
        ('patch_size', 0, 'at least 1'),
        ('patch_size', 2.5, 'whole number'),
        ('mix_alpha', 0.0, 'above 0'),
        ('mix_alpha', -1.0, 'above 0'),
        ('mix_alpha', float('nan'), 'above 0'),
        ('mix_alpha', float('inf'), 'finite'),
        ('clean_label', 1.5, r'in \[0, 1\]'),
        ('clean_label', -0.1, r'in \[0, 1\]'),
        ('perturbed_label', 2, r'in \[0, 1\]'),
        ('perturbed_label', float('nan'), r'in \[0, 1\]'),
        ('scale', 0.5, 'at least 1'),
        ('consistency', -1.0, 'at least 0'),
        ('scale', float('nan'), 'at least 1'),
        ('scale', float('inf'), 'finite'),
    ],
)
def test_bad_option(option: str, value: Any, hint: str) -> None:
    with pytest.raises(ValueError, match=rf'{option}={value!r} .*{hint}'):
        M2AT(**{option: value})


@pytest.mark.parametrize(
    'registry',
    [mmengine.registry.TASK_UTILS, mmpretrain.registry.TASK_UTILS],
    ids=['mmengine', 'mmpretrain'],
)
def test_built_by_name_under_the_scope_of_mmpretrain(
    registry: Registry,
) -> None:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        method = registry.build(dict(type='m2at_mm.M2AT', scale=2.0))

    assert type(method) is M2AT
    assert vars(method) == {**DEFAULTS, 'scale': 2.0}
    assert method.needs_attack


# --- loss ------------------------------------------------------------------

SETTINGS = {
    'default': {},
    'pixel-scale-2': dict(mask='pixel', scale=2.0),
    'patch-2': dict(mask='patch', patch_size=2),
    'soft': dict(clean_label=0.9, perturbed_label=0.5),
    'literal': dict(perturbed_label=0.5, label_order='literal'),
    'batch': dict(pairing='batch', mix_alpha=0.5),
}


@pytest.mark.parametrize('name', SETTINGS)
def test_loss_hands_mixed_images_on(name: str, images: Tensor) -> None:
    settings: dict[str, Any] = SETTINGS[name]
    method, model, attack = M2AT(**settings), FakeModel(), FakeAttack()
    torch.manual_seed(1)
    losses = method.loss(model, attack, images, LABELS)
    torch.manual_seed(1)
    draws = method.draw(images)

    # The attack gets the model, the clean images and their labels, once.
    [(attacked, clean, target)] = attack.calls
    assert attacked is model and clean is images and target is LABELS
    # The same draws give the same training images through mask_and_mix,
    # which has its own tests.
    given = {**DEFAULTS, **settings}
    mixed = mask_and_mix(
        images,
        (images + EPS).clamp(0, 1),
        torch.eye(K)[LABELS],
        draws,
        clean_label=given['clean_label'],
        perturbed_label=given['perturbed_label'],
        label_order=given['label_order'],
        scale=given['scale'],
    )
    [(trained, labels)] = model.seen
    assert torch.equal(trained, mixed.images)
    if name in ('soft', 'literal', 'batch'):
        assert torch.equal(labels, mixed.target)
    else:
        assert labels is LABELS
    assert torch.equal(losses['loss'], trained.sum())
    share = losses['kept_share']
    assert share.shape == ()
    assert share.item() == pytest.approx(mixed.keep_map.mean().item())
    # Half of the labels are the predicted class.
    assert losses['adversarial_accuracy'].item() == 50
    assert losses.keys() == {'loss', 'kept_share', 'adversarial_accuracy'}


@pytest.mark.parametrize(
    ('settings', 'soft'),
    [
        ({}, False),
        (dict(scale=2.0), False),
        (dict(label_order='literal'), False),
        (dict(pairing='batch'), True),
        (dict(perturbed_label=0.9), True),
        (dict(clean_label=0.9), True),
        (dict(clean_label=0.9, perturbed_label=0.9), True),
    ],
    ids=str,
)
@pytest.mark.parametrize('given', ['labels', 'probabilities'])
def test_target_changes_only_where_it_must(
    settings: dict[str, Any], soft: bool, given: str, images: Tensor
) -> None:
    target = LABELS
    if given == 'probabilities':
        target = torch.full((N, K), 0.1)
        target[range(N), LABELS] = 0.7
    model = FakeModel()

    losses = M2AT(**settings).loss(model, FakeAttack(), images, target)

    [(_, trained_to)] = model.seen
    if soft:
        assert trained_to.shape == (N, K)
        assert not torch.allclose(trained_to, torch.eye(K)[LABELS])
        assert torch.allclose(trained_to.sum(1), torch.ones(N))
    else:
        assert trained_to is target
    assert losses['adversarial_accuracy'].item() == 50


def test_labels_without_the_number_of_classes(images: Tensor) -> None:
    with pytest.raises(ValueError, match='set num_classes'):
        M2AT().loss(FakeModel(None), FakeAttack(), images, LABELS)


def test_classifier_without_logits_is_trained(images: Tensor) -> None:
    class Silent(FakeModel):
        def supervised_loss(
            self, images: Tensor, target: Tensor
        ) -> tuple[dict[str, Tensor], None]:
            return {'loss': images.sum()}, None

    losses = M2AT().loss(Silent(), FakeAttack(), images, LABELS)

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
def test_half_of_the_perturbation_is_kept_on_average(
    mask: str, alpha: float
) -> None:
    num = 20000
    mask_of, ratio, _ = draw(num, mask=mask, mix_alpha=alpha)

    area = mask_of.double().mean((1, 2, 3))
    share = ratio * area + (1 - ratio) * (1 - area)
    assert abs(share.mean() - 0.5) < 4 * share.std() / num**0.5


def test_draws_differ_between_images() -> None:
    mask, ratio, partner = draw(30)

    assert mask.shape == (30, 1, 6, 6)
    assert len(mask.flatten(1).unique(dim=0)) > 10
    assert len(ratio.unique()) == 30
    assert partner is None


def test_partners_are_a_permutation_of_the_batch() -> None:
    partner = draw(30, pairing='batch').partner

    assert partner is not None
    assert sorted(partner.tolist()) == list(range(30))
    assert partner.tolist() != list(range(30))


def test_draws_are_repeatable() -> None:
    first, again = (draw(5, pairing='batch') for _ in range(2))

    for one, other in zip(first, again):
        assert torch.equal(one, other)


# --- consistency -----------------------------------------------------------


def test_consistency_adds_the_divergence_from_the_clean_image(
    check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = M2AT().draw(check.images)
    monkeypatch.setattr(M2AT, 'draw', lambda self, images: drawn)
    keep = drawn.mask * drawn.ratio.view(-1, 1, 1, 1)
    keep = keep + (1 - drawn.mask) * (1 - drawn.ratio.view(-1, 1, 1, 1))

    def reference(net: Any) -> Tensor:
        perturbation = check.adversarial - check.images
        mixed = net(check.images + keep * perturbation).softmax(1)
        clean = net(check.images).softmax(1)
        own = mixed[torch.arange(6), check.labels]
        divergence = (clean * (clean.log() - mixed.log())).sum(1)
        return -own.log().mean() + 4 * divergence.mean()

    losses = check.compare(
        dict(type='m2at_mm.M2AT', consistency=4.0),
        lambda *args: check.adversarial,
        check.labels,
        reference,
    )
    assert losses['kept_share'].item() == pytest.approx(keep.mean().item())


def test_consistency_of_two_images_is_refused() -> None:
    with pytest.raises(ValueError, match=r'consistency=2\.0 compares'):
        M2AT(consistency=2.0, pairing='batch')
