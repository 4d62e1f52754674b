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
ONE_HOT = torch.eye(K, dtype=torch.int64)[LABELS]
SOFT = torch.rand(N, K, generator=DRAW, dtype=torch.float64)
SOFT /= SOFT.sum(1, keepdim=True)


def by_hand(name: str, logits: Tensor, target: Tensor) -> list[float]:
    """The losses as the papers have them, image by image."""
    values = []
    for row, one in zip(logits.tolist(), target.tolist()):
        if name == 'margin':
            label = one.index(max(one))
            values.append(max(row[:label] + row[label + 1 :]) - row[label])
            continue
        p = [math.exp(z) / sum(map(math.exp, row)) for z in row]
        if name == 'kl':
            q = [math.exp(z) / sum(map(math.exp, one)) for z in one]
            values.append(sum(b * math.log(b / a) for a, b in zip(p, q)))
        else:
            values.append(-sum(t * math.log(a) for t, a in zip(one, p)))
    return values


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('soft', [False, True])
def test_loss_per_image(name: str, soft: bool) -> None:
    target = REFERENCE if name == 'kl' else SOFT if soft else ONE_HOT
    result = LOSSES[name](LOGITS, LABELS if target is ONE_HOT else target)
    assert result.shape == (N,)
    expected = by_hand(name, LOGITS, target)
    assert result.tolist() == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_margin_keeps_its_gradient_where_cross_entropy_loses_it() -> None:
    leaf = torch.tensor([[200.0, 3, 1], [-9, 200, 3]]).requires_grad_()
    of_ce, of_margin = (
        torch.autograd.grad(loss(leaf, torch.tensor([0, 1])).sum(), leaf)[0]
        for loss in (cross_entropy, margin)
    )
    assert not of_ce.any()
    assert of_margin.tolist() == [[-1, 1, 0], [0, -1, 1]]


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
)
def test_targets_that_are_refused(target: Tensor, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        as_target(target, N)


def test_targets_of_other_classes() -> None:
    for target, found in ((SOFT, 'of 7 classes'), (LABELS, 'label 6')):
        with pytest.raises(ValueError, match=f'{found}, but the model has 6'):
            check_classes(target, 6)
