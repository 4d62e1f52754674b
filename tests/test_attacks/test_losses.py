from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from m2at_mm.attacks import cross_entropy, margin
from m2at_mm.attacks.losses import LOSSES, as_target, check_classes

N, K = 64, 7
DRAW = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(N, K, generator=DRAW, dtype=torch.float64)
REFERENCE = 3 * torch.randn(N, K, generator=DRAW, dtype=torch.float64)
LABELS = torch.randint(K, (N,), generator=DRAW)
SOFT = torch.rand(N, K, generator=DRAW, dtype=torch.float64)
SOFT /= SOFT.sum(1, keepdim=True)


def by_hand(name: str, logits: Tensor, target: Tensor) -> list[float]:
    """The losses as the papers have them, image by image."""
    values = []
    for row, one in zip(logits.tolist(), target.tolist()):
        if name == 'margin':
            label = one if isinstance(one, int) else one.index(max(one))
            others = [z for k, z in enumerate(row) if k != label]
            values.append(max(others) - row[label])
            continue
        p = [math.exp(z) / sum(map(math.exp, row)) for z in row]
        if name == 'kl':
            q = [math.exp(z) / sum(map(math.exp, one)) for z in one]
            values.append(sum(b * math.log(b / a) for a, b in zip(p, q)))
        elif isinstance(one, int):
            values.append(-math.log(p[one]))
        else:
            values.append(-sum(t * math.log(a) for t, a in zip(one, p)))
    return values


@pytest.mark.parametrize(
    'name, target',
    [
        ('ce', LABELS),
        ('ce', SOFT),
        ('margin', LABELS),
        ('margin', SOFT),
        ('kl', REFERENCE),
    ],
    ids=['ce-hard', 'ce-soft', 'margin', 'margin-soft', 'kl'],
)
def test_loss_per_image(name: str, target: Tensor) -> None:
    result = LOSSES[name](LOGITS, target)
    assert result.shape == (N,)
    expected = by_hand(name, LOGITS, target)
    assert result.tolist() == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_margin_keeps_its_gradient_where_cross_entropy_loses_it() -> None:
    logits = torch.tensor([[200.0, 3.0, 1.0], [-9.0, 200.0, 3.0]])
    labels = torch.tensor([0, 1])
    leaf = logits.requires_grad_()

    (of_ce,) = torch.autograd.grad(cross_entropy(leaf, labels).sum(), leaf)
    (of_margin,) = torch.autograd.grad(margin(leaf, labels).sum(), leaf)

    assert not of_ce.any()
    assert of_margin.tolist() == [[-1, 1, 0], [0, -1, 1]]


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
