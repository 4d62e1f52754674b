"""Masks, and the masking and mixing of M2AT, as pure functions on batches.

Marks: **paper** is arXiv 2302.08066, **patent** is WO2022250071A1, **ours**
is a choice of this project.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from m2at_mm.checks import check_choice
from m2at_mm.methods.labels import smooth_labels

MASKS = ('rectangle', 'pixel', 'patch')
LABEL_ORDERS = ('perturbed', 'literal')
Device = torch.device | str


def rectangle_mask(
    num: int, height: int, width: int, device: Device = 'cpu'
) -> Tensor:
    """One rectangle of ones per mask, shape (num, 1, height, width) (ours).

    As in CutMix (arXiv 1905.04899, appendix A): the centre is uniform, the
    sides are sqrt(1 - u) of the image's with u ~ U(0, 1).
    """
    side = (1 - torch.rand(num, device=device)).sqrt()
    rows, columns = _interval(height, side), _interval(width, side)
    return (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1).float()


def _interval(length: int, side: Tensor) -> Tensor:
    """Where an interval of ``side * length`` is, bool of shape (N, L)."""
    half = (side * length).long().unsqueeze(1) // 2
    centre = torch.randint(length, half.shape, device=half.device)
    position = torch.arange(length, device=half.device)
    return (position >= centre - half) & (position < centre + half)


def pixel_mask(
    num: int, height: int, width: int, device: Device = 'cpu'
) -> Tensor:
    """Independent pixels, a share u ~ U(0, 1) of them ones (ours)."""
    share = torch.rand(num, 1, 1, 1, device=device)
    return (torch.rand(num, 1, height, width, device=device) < share).float()


def patch_mask(
    num: int,
    height: int,
    width: int,
    device: Device = 'cpu',
    patch_size: int = 4,
) -> Tensor:
    """A grid of patches, a share u ~ U(0, 1) of them ones (ours)."""
    rows, columns = (math.ceil(n / patch_size) for n in (height, width))
    mask = pixel_mask(num, rows, columns, device)
    for dim in (2, 3):
        mask = mask.repeat_interleave(patch_size, dim)
    return mask[..., :height, :width]


def draw_masks(kind: str, images: Tensor, patch_size: int = 4) -> Tensor:
    """Masks of a kind for a batch, 0 or 1, float, shape (N, 1, H, W)."""
    num, _, height, width = images.shape
    if kind == 'patch':
        return patch_mask(num, height, width, images.device, patch_size)
    draw = rectangle_mask if kind == 'rectangle' else pixel_mask
    return draw(num, height, width, images.device)


class MixRatios(NamedTuple):
    """The random draws of one batch."""

    #: M, 0 or 1, shape (N, 1, H, W).
    mask: Tensor
    #: lam in [0, 1], shape (N, ).
    ratio: Tensor
    #: Index of x2's image, int64, shape (N, ); None: that of x1.
    partner: Tensor | None = None


class MixedBatch(NamedTuple):
    """What masking and mixing makes of a batch."""

    #: x~, RGB in [0, 1], shape (N, C, H, W).
    images: Tensor
    #: t~, probabilities, shape (N, K).
    target: Tensor
    #: k in [0, 1], before scaling, shape (N, 1, H, W).
    keep_map: Tensor
    #: s in [0, 1], before scaling, shape (N, ).
    kept_share: Tensor


def mask_and_mix(
    images: Tensor,
    adversarial: Tensor,
    target: Tensor,
    draws: MixRatios,
    *,
    clean_label: float = 1.0,
    perturbed_label: float = 1.0,
    label_order: str = 'perturbed',
    scale: float = 1.0,
) -> MixedBatch:
    """Mask the perturbation and mix the two partly perturbed images.

    With d = adversarial - images, the mask M of area r and the ratio lam::

        x1 = x + M*d    x2 = x + (1-M)*d    x~ = lam*x1 + (1-lam)*x2   (paper)
        t1 = (1-r)*t_c + r*t_p              t_c = ls(y, clean_label)
        t2 = r*t_c + (1-r)*t_p              t_p = ls(y, perturbed_label)
        t~ = lam*t1 + (1-lam)*t2                                      (patent)

    computed in the equal closed form with the keep map k::

        k  = lam*M + (1-lam)*(1-M)    s = mean(k)
        x~ = clip(x + scale*k*d)      t~ = (1-s)*t_c + s*t_p

    The scale, the base labels and the clip to [0, 1] are ours. With
    ``draws.partner``, x2 and t2 come from another image of the batch (ours).

    The images, clean and adversarial, are in [0, 1], shape (N, C, H, W), and
    the target is probabilities, shape (N, K). See :class:`M2AT` for settings.
    """
    check_choice('label_order', label_order, LABEL_ORDERS)
    mask, ratio, partner = draws
    lam = ratio.view(-1, 1, 1, 1)
    first, second = lam * mask, (1 - lam) * (1 - mask)  # what x1, x2 keep
    keep_map = first + second
    perturbation = adversarial - images
    clean = smooth_labels(target, clean_label)
    perturbed = smooth_labels(target, perturbed_label)
    if label_order == 'literal':
        clean, perturbed = perturbed, clean
    share = keep_map.mean((1, 2, 3))
    if partner is None:
        mixed = images + scale * keep_map * perturbation
        weight = share.unsqueeze(1)
        labels = (1 - weight) * clean + weight * perturbed
    else:
        kept = first * perturbation + second * perturbation[partner]
        mixed = lam * images + (1 - lam) * images[partner] + scale * kept
        area, weight = mask.mean((1, 2, 3)).unsqueeze(1), ratio.unsqueeze(1)
        own = (1 - area) * clean + area * perturbed
        other = area * clean[partner] + (1 - area) * perturbed[partner]
        labels = weight * own + (1 - weight) * other
    return MixedBatch(mixed.clamp(0, 1), labels, keep_map, share)
