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
    mixed, kept = found.mixed, found.kept
    plain = mixed[PLAIN]
    assert torch.allclose(plain.images, clean + kept[PLAIN], atol=1e-6)
    assert torch.equal(plain.target, torch.eye(K)[labels])
    # Twice of the same is kept.
    assert torch.allclose(kept[SCALE], 2 * kept[PLAIN], atol=1e-6)
    assert torch.equal(mixed[SCALE].keep_map, plain.keep_map)
    # The same image with other labels.
    share = plain.keep_map.mean((1, 2, 3))
    for name, weight in ((LABEL, share), (LITERAL, 1 - share)):
        assert torch.equal(mixed[name].images, plain.images)
        right = mixed[name].target[range(N), labels]
        assert torch.allclose(right, 1 - 0.5 * weight, atol=1e-6)
    # The config's own options together.
    own = mixed['this config']
    assert torch.equal(own.images, mixed[SCALE].images)
    assert torch.equal(own.target, mixed[LABEL].target)
    assert found.own == 'perturbed_label=0.5, scale=2.0'


def test_ratio_of_another_distribution(grey: Batch) -> None:
    found = make(grey)
    for first, second in zip(
        found.mixed[PLAIN].keep_map, found.mixed[ALPHA].keep_map
    ):
        plain, other = first.unique(), second.unique()
        # Same mask; the ratio, and so each share, farther from a half.
        assert torch.equal(first == plain[0], second == other[0])
        assert len(plain) == len(other) == 2
        assert other[0] < plain[0] and other[1] > plain[1]
    assert found.own == 'plain'


def test_partner_is_the_next_image(grey: Batch) -> None:
    clean, labels = grey
    found = make(grey)
    pairs, kept = found.mixed[PAIRING], found.kept[PAIRING]
    weight = pairs.target[range(N), labels]  # of an image itself
    partner = pairs.target[range(N), labels.roll(-1)]
    assert torch.allclose(partner, 1 - weight, atol=1e-6)
    lam = weight.view(-1, 1, 1, 1)
    expected = lam * clean + (1 - lam) * clean.roll(-1, 0) + kept
    assert torch.allclose(pairs.images, expected, atol=1e-5)
    assert kept.abs().max() <= 8 / 255 + 1e-6


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
            mixed = found.mixed[name]
            shown = torch.as_tensor(top[place].images[0].get_array())
            assert torch.equal(shown, mixed.images[row].permute(1, 2, 0))
            share = mixed.keep_map[row].mean()
            likeliest = mixed.target[row].topk(2)
            label = likeliest.indices[0]
            score = 100 * likeliest.values[0]
            text = below[place].get_xlabel().splitlines()
            assert text[0] == f'keeps {share:.2f}, target:'
            assert text[1] == f'{label} {score:.0f} %'
            assert len(text) == (3 if name == PAIRING else 2)


def test_other_methods_have_no_options(digits: Batch) -> None:
    with pytest.raises(ValueError, match='TRADES has no masks'):
        MethodOptions.of(tiny_model(type='m2at_mm.TRADES'), *digits)
