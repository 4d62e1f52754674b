from typing import Any

import pytest
import torch
from picture_support import EPS, Batch, K, N, made, shown

from m2at_mm.methods.m2at import MASKS
from m2at_mm.visualization import MaskKinds, MethodOptions, mixing
from m2at_mm.visualization.mixing import VARIANTS

PLAIN, SCALE, ALPHA, PAIRING, LABEL, LITERAL = VARIANTS


@pytest.fixture(scope='module')
def grey(digits: Batch) -> Batch:
    """The digits in greys, so that nothing is cut off at 0 and 1."""
    return 0.25 + digits[0] / 2, digits[1]


@pytest.mark.parametrize('pairing', ['self', 'batch'])
def test_kinds_share_perturbation_and_ratio(grey: Batch, pairing: str) -> None:
    batch = made(MaskKinds, grey, patch_size=8, pairing=pairing, scale=2.0)
    assert set(batch.draws) == set(MASKS)
    assert torch.equal(batch.clean, grey[0])
    assert (batch.perturbation.abs() <= EPS + 1e-7).all()
    for kind, (mask, ratio, _) in batch.draws.items():
        assert torch.equal(ratio, batch.draws['pixel'].ratio)
        assert ((mask == 0) | (mask == 1)).all()
        lam = ratio.view(-1, 1, 1, 1)
        keep = torch.where(mask == 1, lam, 1 - lam)
        kept = keep * batch.perturbation
        assert torch.allclose(batch.kept[kind], kept, atol=1e-6)
    # A patch of 8 x 8 pixels is of one value, and a rectangle is one.
    patches = batch.draws['patch'].mask.unfold(2, 8, 8).unfold(3, 8, 8)
    assert torch.equal(patches.amax((-1, -2)), patches.amin((-1, -2)))
    for mask in batch.draws['rectangle'].mask[:, 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask.bool(), rows[:, None] & columns[None])


def test_texts_of_masks_are_the_means(grey: Batch) -> None:
    batch = made(MaskKinds, grey)
    figure = mixing.draw_mask_kinds(batch, note='a note')
    columns = 2 + 2 * len(MASKS)
    assert len(figure.axes) == N * columns
    assert 'a note' in figure.get_suptitle()
    titles = [axis.get_title() for axis in figure.axes[2:columns:2]]
    assert titles == [f'mask={kind!r}' for kind in MASKS]
    for row in range(N):
        axes = figure.axes[row * columns :][:columns]
        lam = float(batch.draws['pixel'].ratio[row])
        assert axes[0].get_xlabel() == str(int(grey[1][row]))
        assert axes[1].get_xlabel() == f'mixing ratio {lam:.2f}'
        for mask, kept, kind in zip(axes[2::2], axes[3::2], MASKS):
            covered = shown(mask)[0]
            assert torch.equal(covered, batch.draws[kind].mask[row, 0])
            area = float(covered.mean())
            assert mask.get_xlabel() == f'covers {area:.2f}'
            share = lam * area + (1 - lam) * (1 - area)
            assert kept.get_xlabel() == f'keeps {share:.2f}'
            # What is not grey is what is kept, amplified by 1 / (2 eps).
            change = 2 * EPS * (shown(kept) - 0.5)
            assert torch.allclose(change, batch.kept[kind][row], atol=1e-6)


def test_options_with_the_same_draws(grey: Batch) -> None:
    clean, labels = grey
    found = made(MethodOptions, grey, scale=2.0, perturbed_label=0.5)
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


def test_ratio_and_partner_of_an_option(grey: Batch) -> None:
    clean, labels = grey
    found = made(MethodOptions, grey)
    assert found.own == 'plain'
    maps = (found.mixed[name].keep_map for name in (PLAIN, ALPHA))
    for first, second in zip(*maps):
        plain, other = first.unique(), second.unique()
        # Same mask; the ratio, and so each share, farther from a half.
        assert torch.equal(first == plain[0], second == other[0])
        assert len(plain) == len(other) == 2
        assert other[0] < plain[0] and other[1] > plain[1]
    # The partner is the next image.
    pairs, kept = found.mixed[PAIRING], found.kept[PAIRING]
    weight = pairs.target[range(N), labels]  # of an image itself
    partner = pairs.target[range(N), labels.roll(-1)]
    assert torch.allclose(partner, 1 - weight, atol=1e-6)
    lam = weight.view(-1, 1, 1, 1)
    expected = lam * clean + (1 - lam) * clean.roll(-1, 0) + kept
    assert torch.allclose(pairs.images, expected, atol=1e-5)
    assert kept.abs().max() <= EPS + 1e-6


def test_figure_of_options(grey: Batch) -> None:
    found = made(MethodOptions, grey, scale=1.5)
    figure = mixing.draw_method_options(found, note='a note')
    columns = 2 + len(VARIANTS)
    assert len(figure.axes) == 2 * N * columns
    heading = figure.get_suptitle()
    assert 'a note' in heading and 'this config: scale=1.5' in heading
    names = ['clean', *VARIANTS, 'this config']
    assert [axis.get_title() for axis in figure.axes[:columns]] == names
    for row in range(N):
        top = figure.axes[2 * row * columns :][:columns]
        below = figure.axes[(2 * row + 1) * columns :][:columns]
        for place, name in enumerate(names[1:], start=1):
            mixed = found.mixed[name]
            assert torch.equal(shown(top[place]), mixed.images[row])
            share = mixed.keep_map[row].mean()
            score, label = mixed.target[row].max(0)
            text = below[place].get_xlabel().splitlines()
            assert text[0] == f'keeps {share:.2f}, target:'
            assert text[1] == f'{label} {100 * score:.0f} %'
            assert len(text) == (3 if name == PAIRING else 2)


@pytest.mark.parametrize('kind', [MaskKinds, MethodOptions])
def test_other_methods_have_no_masks(digits: Batch, kind: Any) -> None:
    with pytest.raises(ValueError, match=r'PGDAT has no masks.*M2AT'):
        made(kind, digits, type='m2at_mm.PGDAT')
