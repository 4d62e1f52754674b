from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import build_adversarial
from torch import Tensor

from m2at_mm.methods.masking import MASKS
from m2at_mm.visualization import MaskKinds, draw_mask_kinds

N, EPS = 3, 32 / 255
Batch = tuple[Tensor, Tensor]


def tiny_model(**method: Any) -> Any:
    return build_adversarial(
        method=dict(dict(type='m2at_mm.M2AT'), **method),
        threat_model=dict(norm='linf', eps='32/255'),
    ).eval()


def make(digits: Batch, **method: Any) -> MaskKinds:
    model = tiny_model(**method)
    torch.manual_seed(1)
    return MaskKinds.of(model, *digits)


@pytest.mark.parametrize('pairing', ['self', 'batch'])
def test_kinds_share_perturbation_and_ratio(
    digits: Batch, pairing: str
) -> None:
    batch = make(digits, patch_size=8, pairing=pairing, scale=2.0)
    assert set(batch.masks) == set(batch.keep_maps) == set(MASKS)
    assert torch.equal(batch.clean, digits[0])
    assert (batch.perturbation.abs() <= EPS + 1e-7).all()
    lam = batch.ratio.view(-1, 1, 1, 1)
    for kind, mask in batch.masks.items():
        assert ((mask == 0) | (mask == 1)).all(), kind
        expected = torch.where(mask == 1, lam, 1 - lam)
        assert torch.allclose(batch.keep_maps[kind], expected)
    # A patch of 8 x 8 pixels is of one value, and a rectangle is one.
    patches = batch.masks['patch'].unfold(2, 8, 8).unfold(3, 8, 8)
    assert torch.equal(patches.amax((-1, -2)), patches.amin((-1, -2)))
    for mask in batch.masks['rectangle'][:, 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask.bool(), rows[:, None] & columns[None])


def test_texts_are_the_means(digits: Batch) -> None:
    batch = make(digits)
    figure = draw_mask_kinds(batch, note='a note')
    columns = 2 + 2 * len(MASKS)
    assert len(figure.axes) == N * columns
    assert 'a note' in figure.get_suptitle()
    titles = [axis.get_title() for axis in figure.axes[:columns]]
    assert titles[2::2] == [f'mask={kind!r}' for kind in MASKS]
    for row in range(N):
        axes = figure.axes[row * columns : (row + 1) * columns]
        assert axes[0].get_xlabel() == str(int(digits[1][row]))
        assert axes[1].get_xlabel() == f'mixing ratio {batch.ratio[row]:.2f}'
        for place, kind in enumerate(MASKS):
            mask, kept = axes[2 + 2 * place], axes[3 + 2 * place]
            shown = torch.as_tensor(mask.images[0].get_array())
            assert torch.equal(shown[..., 0], batch.masks[kind][row, 0])
            assert mask.get_xlabel() == f'covers {shown.mean():.2f}'
            lam = float(batch.ratio[row])
            share = lam * shown.mean() + (1 - lam) * (1 - shown.mean())
            assert kept.get_xlabel() == f'keeps {share:.2f}'
            # What is not grey is what is kept, amplified by 1 / (2 eps).
            amplified = torch.as_tensor(kept.images[0].get_array()) - 0.5
            change = 2 * EPS * amplified.permute(2, 0, 1)
            expected = batch.keep_maps[kind][row] * batch.perturbation[row]
            assert torch.allclose(change, expected, atol=1e-6)


def test_other_methods_have_no_masks(digits: Batch) -> None:
    with pytest.raises(ValueError, match=r'PGDAT has no masks.*M2AT'):
        MaskKinds.of(tiny_model(type='m2at_mm.PGDAT'), *digits)
