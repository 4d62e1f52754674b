from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from mmpretrain.models.utils.batch_augments import CutMix
from torch import Tensor

from m2at_mm.methods import MixRatios, draw_masks, m2at, mask_and_mix
from m2at_mm.methods.m2at import LABEL_ORDERS, MASKS

N, C, H, W, K = 8, 3, 10, 12, 5
EPS = 0.25
TARGETS, PAIRINGS = ('labels', 'probabilities'), ('self', 'batch')
KINDS = [*product(MASKS, TARGETS, PAIRINGS)]


# --- masking and mixing ----------------------------------------------------


class Batch:
    """A batch at the border of the box, with every kind of draw."""

    def __init__(self, mask: str, target: str, pairing: str) -> None:
        rng = torch.Generator().manual_seed(3)
        images = torch.rand(N, C, H, W, generator=rng)
        images[0], images[1], images[2, :, ::2] = 0, 1, 0
        noise = torch.rand(images.shape, generator=rng) * 2 - 1
        noise[3] = noise[3].sign()
        self.images = images
        self.adversarial = (images + EPS * noise).clamp(0, 1)
        self.target = torch.eye(K)[torch.arange(N) % K]
        if target == 'probabilities':
            scores = torch.rand(N, K, generator=rng)
            self.target = scores / scores.sum(1, keepdim=True)
        torch.manual_seed(5)
        masks = draw_masks(mask, images)
        masks[4], masks[5] = 0, 1
        ratio = torch.rand(N, generator=rng)
        ratio[6], ratio[7] = 0, 1
        partner = torch.tensor([3, 0, 2, 1, 7, 6, 5, 4])
        partner = partner if pairing == 'batch' else None
        self.draws = MixRatios(masks, ratio, partner)
        self.given = self.images, self.adversarial, self.target, self.draws


def base_label(target: Tensor, confidence: float) -> list[float]:
    """ls(y, q) = q*y + (1-q)/(K-1)*(1-y), class by class."""
    rest = (1 - confidence) / (len(target) - 1)
    return [confidence * y + rest * (1 - y) for y in target.tolist()]


def two_images_mixed(
    batch: Batch, clean: float, perturbed: float, order: str, scale: float
) -> tuple[Tensor, Tensor]:
    """x~ before the clip and t~, by building both images and labels."""
    images, targets = [], []
    for i in range(N):
        partner = batch.draws.partner
        j = i if partner is None else int(partner[i])
        x, other_x = batch.images[i].double(), batch.images[j].double()
        d = batch.adversarial[i].double() - x
        other_d = batch.adversarial[j].double() - other_x
        M = batch.draws.mask[i].double()
        lam = float(batch.draws.ratio[i])
        x1 = x + scale * M * d
        x2 = other_x + scale * (1 - M) * other_d
        images.append(lam * x1 + (1 - lam) * x2)

        r = float(M.sum()) / (H * W)
        t_c, other_c = (base_label(batch.target[n], clean) for n in (i, j))
        t_p, other_p = (base_label(batch.target[n], perturbed) for n in (i, j))
        if order == 'literal':
            t_c, t_p, other_c, other_p = t_p, t_c, other_p, other_c
        t1 = [(1 - r) * c + r * p for c, p in zip(t_c, t_p)]
        t2 = [r * c + (1 - r) * p for c, p in zip(other_c, other_p)]
        targets.append([lam * a + (1 - lam) * b for a, b in zip(t1, t2)])
    return torch.stack(images), torch.tensor(targets, dtype=torch.float64)


@pytest.mark.parametrize('kind', KINDS, ids=str)
@pytest.mark.parametrize('base', [(1.0, 1.0), (0.9, 0.4), (0.2, 0.0)])
@pytest.mark.parametrize('order', LABEL_ORDERS)
@pytest.mark.parametrize('scale', [1.0, 1.5, 2.0])
def test_closed_form_is_two_images_mixed(
    kind: tuple, base: tuple[float, float], order: str, scale: float
) -> None:
    batch, before = Batch(*kind), Batch(*kind)
    options: Any = dict(zip(('clean_label', 'perturbed_label'), base))
    options.update(label_order=order, scale=scale)
    mixed = mask_and_mix(*batch.given, **options)
    images, targets = two_images_mixed(batch, *base, order, scale)
    assert (mixed.images - images.clamp(0, 1)).abs().max() < 1e-6
    assert (mixed.target - targets).abs().max() < 1e-6
    assert (mixed.target.sum(1) - 1).abs().max() < 1e-6
    # Scaled, they leave the ball; the clip keeps them in the box.
    assert mixed.images.min() >= 0 and mixed.images.max() <= 1
    assert scale < 2 or (images.min() < -0.01 and images.max() > 1.01)
    # What is given stays as it is.
    torch.testing.assert_close(batch.given, before.given, rtol=0, atol=0)


@pytest.mark.parametrize('mask', MASKS)
def test_keep_map_and_kept_share(mask: str) -> None:
    batch = Batch(mask, 'labels', 'self')
    mixed = mask_and_mix(*batch.given, scale=2.0)
    plain = mask_and_mix(*batch.given)
    lam = batch.draws.ratio.view(-1, 1, 1, 1)
    expected = torch.where(batch.draws.mask == 1, lam, 1 - lam)
    assert torch.allclose(mixed.keep_map, expected, atol=1e-6)
    share = expected.mean((1, 2, 3))
    assert torch.allclose(mixed.kept_share, share, atol=1e-6)
    # Unscaled training images are in the ball.
    change = (plain.images - batch.images).abs()
    perturbation = (batch.adversarial - batch.images).abs()
    assert perturbation.max() <= EPS + 1e-6
    assert (change <= perturbation + 1e-6).all()
    with pytest.raises(ValueError, match=r"'swapped'.*'perturbed', 'literal'"):
        mask_and_mix(*batch.given, label_order='swapped')


# --- masks -----------------------------------------------------------------


@pytest.mark.parametrize('kind', MASKS)
@pytest.mark.parametrize('shape', [(1, 8, 8), (3, 5, 13), (3, 32, 32)])
def test_masks_are_binary_and_drawn_per_image(kind: str, shape: tuple) -> None:
    images = torch.zeros(40, *shape)
    torch.manual_seed(0)
    np.random.seed(0)
    masks, others = draw_masks(kind, images), draw_masks(kind, images)
    assert masks.shape == (40, 1, *shape[1:])
    assert masks.dtype == torch.float32
    assert ((masks == 0) | (masks == 1)).all()
    # Small grids repeat now and then.
    assert len(masks.flatten(1).unique(dim=0)) > 10
    assert not torch.equal(masks, others)
    torch.manual_seed(0)
    assert torch.equal(masks, draw_masks(kind, images))
    assert draw_masks(kind, images.to('meta')).device.type == 'meta'


@pytest.mark.parametrize('size', [(8, 12), (9, 7), (32, 33)])
def test_rectangle_is_the_box_of_cutmix(monkeypatch: Any, size: Any) -> None:
    """For the same uniform draws."""
    rng = np.random.RandomState(1)
    u = rng.rand(300).astype(np.float32)
    u[0] = 0  # the largest box
    centres = {n: rng.randint(0, n, 300) for n in size}
    flat = iter(np.stack(list(centres.values()), 1).ravel())

    def randint(high: int, shape: tuple[int, ...], **_: object) -> Tensor:
        return torch.from_numpy(centres[high]).view(shape)

    uniform = torch.from_numpy(u)
    monkeypatch.setattr(torch, 'rand', lambda *shape, **_: uniform.view(shape))
    monkeypatch.setattr(torch, 'randint', randint)
    monkeypatch.setattr(np.random, 'randint', lambda *_, **__: next(flat))
    masks = m2at.rectangle_mask(300, *size)[:, 0]
    for mask, lam in zip(masks, u):
        box = CutMix(alpha=1.0).rand_bbox(size, float(lam))
        top, bottom, left, right = box
        expected = torch.zeros(size)
        expected[top:bottom, left:right] = 1
        assert torch.equal(mask, expected)


AREAS = [('pixel', 9, 27.9), ('patch', 6, 22.5)]


@pytest.mark.parametrize(('kind', 'cells', 'limit'), AREAS)
def test_area_is_uniform(kind: str, cells: int, limit: float) -> None:
    """A share u ~ U(0,1) of n cells: 0 to n ones, equally often.

    The limit is 0.1 % of chi^2 with as many degrees of freedom.
    """
    torch.manual_seed(4)
    if kind == 'pixel':
        ones = m2at.pixel_mask(4000, 3, 3).sum((1, 2, 3))
    else:
        ones = m2at.patch_mask(4000, 8, 12).sum((1, 2, 3)) / 16
    counts = torch.bincount(ones.long(), minlength=cells + 1)
    assert len(counts) == cells + 1
    expected = 4000 / len(counts)
    assert ((counts - expected) ** 2 / expected).sum() < limit


@pytest.mark.parametrize('kind', ['pixel', 'patch'])
def test_cells_are_independent_given_the_share(kind: str) -> None:
    """For u ~ U(0,1) two cells are both ones in a third of the masks."""
    torch.manual_seed(5)
    masks = draw_masks(kind, torch.zeros(6000, 3, 8, 8), patch_size=4)[:, 0]
    cells = masks[:, (0, 7, 0), (0, 0, 7)]
    expected = torch.full((3, 3), 1 / 3).fill_diagonal_(1 / 2)
    assert (cells.T @ cells / 6000 - expected).abs().max() < 0.025


SIZES = [(8, 8, 4), (10, 7, 4), (5, 9, 3), (4, 4, 16), (6, 6, 1)]


@pytest.mark.parametrize('sizes', SIZES)
def test_patches_are_constant(sizes: tuple[int, int, int]) -> None:
    torch.manual_seed(6)
    height, width, side = sizes
    masks = m2at.patch_mask(50, height, width, patch_size=side)

    assert masks.shape == (50, 1, height, width)
    corners = []
    for top, left in product(range(0, height, side), range(0, width, side)):
        patch = masks[:, 0, top : top + side, left : left + side].flatten(1)
        assert (patch == patch[:, :1]).all()
        corners.append(patch[:, 0])
    # Every patch is drawn for itself: none equals another in all masks.
    assert len(torch.stack(corners).unique(dim=0)) == len(corners)
