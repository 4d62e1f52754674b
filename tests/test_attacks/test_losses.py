from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from m2at_mm.attacks import cross_entropy, kl_divergence, margin
from m2at_mm.attacks.losses import (
    LOSSES,
    AttackLoss,
    as_target,
    check_classes,
)

N, K = 64, 7
DRAW = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(N, K, generator=DRAW, dtype=torch.float64)
REFERENCE = 3 * torch.randn(N, K, generator=DRAW, dtype=torch.float64)
LABELS = torch.randint(K, (N,), generator=DRAW)
SOFT = torch.rand(N, K, generator=DRAW, dtype=torch.float64)
SOFT /= SOFT.sum(1, keepdim=True)


def probabilities(logits: Tensor) -> list[list[float]]:
    """Softmax by hand."""
    rows = [[math.exp(z) for z in row] for row in logits.tolist()]
    return [[e / sum(row) for e in row] for row in rows]


def expected_hard_ce() -> list[float]:
    return [
        -math.log(p[label])
        for p, label in zip(probabilities(LOGITS), LABELS.tolist())
    ]


def expected_soft_ce() -> list[float]:
    return [
        -sum(t * math.log(q) for t, q in zip(target, p))
        for target, p in zip(SOFT.tolist(), probabilities(LOGITS))
    ]


def expected_margin(labels: Tensor) -> list[float]:
    """By sorting: the best logit, or the second where the label is best."""
    margins = []
    for row, label in zip(LOGITS.tolist(), labels.tolist()):
        first, second = sorted(row, reverse=True)[:2]
        best_other = second if row[label] == first else first
        margins.append(best_other - row[label])
    return margins


def expected_kl() -> list[float]:
    return [
        sum(p * math.log(p / q) for p, q in zip(reference, other))
        for reference, other in zip(
            probabilities(REFERENCE), probabilities(LOGITS)
        )
    ]


@pytest.mark.parametrize(
    'loss, target, expected',
    [
        pytest.param(cross_entropy, LABELS, expected_hard_ce(), id='ce-hard'),
        pytest.param(cross_entropy, SOFT, expected_soft_ce(), id='ce-soft'),
        pytest.param(margin, LABELS, expected_margin(LABELS), id='margin'),
        pytest.param(
            margin, SOFT, expected_margin(SOFT.argmax(1)), id='margin-soft'
        ),
        pytest.param(kl_divergence, REFERENCE, expected_kl(), id='kl'),
    ],
)
def test_loss_per_image(
    loss: AttackLoss, target: Tensor, expected: list[float]
) -> None:
    result = loss(LOGITS, target)

    assert result.shape == (N,)
    assert result.tolist() == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize('name', LOSSES)
def test_gradient_of_an_image_does_not_depend_on_the_others(name: str) -> None:
    target = REFERENCE if name == 'kl' else LABELS
    together = LOGITS.clone().requires_grad_()
    LOSSES[name](together, target).sum().backward()

    alone = LOGITS[:1].clone().requires_grad_()
    LOSSES[name](alone, target[:1]).sum().backward()

    assert torch.allclose(together.grad[:1], alone.grad, rtol=0, atol=1e-14)


def test_margin_is_positive_where_the_image_is_misclassified() -> None:
    wrong = LOGITS.argmax(1) != LABELS

    assert wrong.any() and not wrong.all()
    assert torch.equal(margin(LOGITS, LABELS) > 0, wrong)


def test_margin_keeps_its_gradient_where_cross_entropy_loses_it() -> None:
    logits = torch.tensor([[200.0, 3.0, 1.0], [-9.0, 200.0, 3.0]])
    labels = torch.tensor([0, 1])
    leaf = logits.requires_grad_()

    (of_ce,) = torch.autograd.grad(cross_entropy(leaf, labels).sum(), leaf)
    (of_margin,) = torch.autograd.grad(margin(leaf, labels).sum(), leaf)

    assert not of_ce.any()
    assert of_margin.tolist() == [[-1, 1, 0], [0, -1, 1]]


def test_kl_is_0_with_no_gradient_at_the_reference() -> None:
    leaf = LOGITS.clone().requires_grad_()
    divergence = kl_divergence(leaf, LOGITS)
    (gradient,) = torch.autograd.grad(divergence.sum(), leaf)

    assert divergence.abs().max() < 1e-12
    assert gradient.abs().max() < 1e-12
    assert (kl_divergence(LOGITS, REFERENCE) > 0).all()


ONE_HOT = torch.eye(K, dtype=torch.int64)[LABELS]


@pytest.mark.parametrize(
    ('target', 'expected'),
    [
        (LABELS, LABELS),
        (LABELS.int(), LABELS),
        (LABELS.to(torch.uint8), LABELS),
        (ONE_HOT, ONE_HOT.float()),
        (ONE_HOT.bool(), ONE_HOT.float()),
        (SOFT, SOFT),
        (SOFT.half(), SOFT.half()),
    ],
    ids=['int64', 'int32', 'uint8', 'one-hot', 'bool', 'soft', 'half'],
)
def test_targets_that_are_taken(target: Tensor, expected: Tensor) -> None:
    taken = as_target(target, N)
    assert taken.dtype == expected.dtype
    assert torch.equal(taken, expected)
    check_classes(taken, K)


@pytest.mark.parametrize(
    ('target', 'message'),
    [
        (LABELS.view(-1, 1), r'int64 of shape \(64, 1\)'),
        (LABELS.float(), r'float32 of shape \(64,\)'),
        (LABELS[:-1], r'shape \(64, \).* \(63,\)'),
        (SOFT[:-1], r'shape \(63, 7\)'),
        (SOFT[:, None], r'shape \(64, 1, 7\)'),
        (torch.tensor(3), r'shape \(\)'),
        (LABELS - 1, 'label -1'),
        (LOGITS, 'not to 1'),
        (ONE_HOT + ONE_HOT.roll(1, 1), 'add up to 2 to 2'),
        (SOFT * torch.nan, 'not to 1'),
    ],
    ids=[
        *('column', 'float', 'few', 'few rows', 'three axes', 'scalar'),
        *('negative', 'logits', 'two labels', 'nan'),
    ],
)
def test_targets_that_are_refused(target: Tensor, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        as_target(target, N)


@pytest.mark.parametrize(
    ('target', 'message'),
    [(SOFT, 'of 7 classes'), (LABELS, 'label 6')],
    ids=['soft', 'labels'],
)
def test_targets_of_other_classes(target: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f'{message}, but the model has 6'):
        check_classes(target, 6)
