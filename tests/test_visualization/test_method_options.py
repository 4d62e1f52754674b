from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import build_adversarial
from torch import Tensor

from m2at_mm.visualization import MethodOptions, draw_method_options
from m2at_mm.visualization.method_options import VARIANTS

N, K = 3, 10
Batch = tuple[Tensor, Tensor]
PLAIN, SCALE, ALPHA, PAIRING, LABEL, LITERAL = VARIANTS


def tiny_model(**method: Any) -> Any:
    return build_adversarial(
        method=dict(dict(type='m2at_mm.M2AT'), **method),
        threat_model=dict(norm='linf', eps='8/255'),
    ).eval()


@pytest.fixture(scope='module')
def grey(digits: Batch) -> Batch:
    """The digits in greys, so that nothing is cut off at 0 and 1."""
    return 0.25 + digits[0] / 2, digits[1]


def make(batch: Batch, **method: Any) -> MethodOptions:
    model = tiny_model(**method)
    torch.manual_seed(1)
    return MethodOptions.of(model, *batch)


def test_same_draws(grey: Batch) -> None:
    clean, labels = grey
    found = make(grey, scale=2.0, perturbed_label=0.5)
    own = torch.eye(K)[labels]
    plain, keep = found.kept[PLAIN], found.keep_maps[PLAIN]
    assert torch.allclose(found.training[PLAIN], clean + plain, atol=1e-6)
    assert torch.equal(found.targets[PLAIN], own)
    # Twice of the same is kept.
    assert torch.allclose(found.kept[SCALE], 2 * plain, atol=1e-6)
    assert torch.equal(found.keep_maps[SCALE], keep)
    # The same image with other labels.
    share = keep.mean((1, 2, 3))
    for name, weight in ((LABEL, share), (LITERAL, 1 - share)):
        assert torch.equal(found.training[name], found.training[PLAIN])
        right = found.targets[name][range(N), labels]
        assert torch.allclose(right, 1 - 0.5 * weight, atol=1e-6)
    # The config's own options together.
    assert torch.equal(found.training['this config'], found.training[SCALE])
    assert torch.equal(found.targets['this config'], found.targets[LABEL])
    assert found.own == 'perturbed_label=0.5, scale=2.0'


def test_ratio_of_another_distribution(grey: Batch) -> None:
    found = make(grey)
    for row in range(N):
        plain = found.keep_maps[PLAIN][row].unique()
        other = found.keep_maps[ALPHA][row].unique()
        # Same mask; the ratio, and so each share, farther from a half.
        mask = found.keep_maps[PLAIN][row] == plain[0]
        same = found.keep_maps[ALPHA][row] == other[0]
        assert torch.equal(mask, same)
        assert len(plain) == len(other) == 2
        assert other[0] < plain[0] and other[1] > plain[1]
    assert found.own == 'plain'


def test_partner_is_the_next_image(grey: Batch) -> None:
    clean, labels = grey
    found = make(grey)
    pairs = found.targets[PAIRING]
    weight = pairs[range(N), labels]  # of an image itself
    partner = labels.roll(-1)
    assert torch.allclose(pairs[range(N), partner], 1 - weight, atol=1e-6)
    lam = weight.view(-1, 1, 1, 1)
    mixed = lam * clean + (1 - lam) * clean.roll(-1, 0)
    expected = mixed + found.kept[PAIRING]
    assert torch.allclose(found.training[PAIRING], expected, atol=1e-5)
    assert found.kept[PAIRING].abs().max() <= 8 / 255 + 1e-6


def test_figure(grey: Batch) -> None:
    found = make(grey, scale=1.5)
    figure = draw_method_options(found, note='a note')
    columns = 2 + len(VARIANTS)
    assert len(figure.axes) == 2 * N * columns
    title = figure.get_suptitle()
    assert 'a note' in title and 'this config: scale=1.5' in title
    titles = [axis.get_title() for axis in figure.axes[:columns]]
    assert titles == ['clean', *VARIANTS, 'this config']
    for row in range(N):
        top = figure.axes[2 * row * columns :][:columns]
        below = figure.axes[(2 * row + 1) * columns :][:columns]
        for place, name in enumerate(titles[1:], start=1):
            shown = torch.as_tensor(top[place].images[0].get_array())
            expected = found.training[name][row].permute(1, 2, 0)
            assert torch.equal(shown, expected)
            text = below[place].get_xlabel().splitlines()
            share = found.keep_maps[name][row].mean()
            assert text[0] == f'keeps {share:.2f}, target:'
            top_two = found.targets[name][row].topk(2)
            label, score = top_two.indices[0], 100 * top_two.values[0]
            assert text[1] == f'{label} {score:.0f} %'
            assert len(text) == (3 if name == PAIRING else 2)


def test_other_methods_have_no_options(digits: Batch) -> None:
    with pytest.raises(ValueError, match='TRADES has no masks'):
        MethodOptions.of(tiny_model(type='m2at_mm.TRADES'), *digits)
