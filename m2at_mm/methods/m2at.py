"""M2AT, and its masking and mixing as pure functions on batches."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from m2at_mm.attacks.losses import kl_divergence
from m2at_mm.checks import check_choice, check_count, check_number
from m2at_mm.methods import base
from m2at_mm.methods.base import BoundAttack, Method, Model, TrainingBatch
from m2at_mm.registry import TASK_UTILS

MASKS = ('rectangle', 'pixel', 'patch')
LABEL_ORDERS = ('perturbed', 'literal')
Device = torch.device | str


def rectangle_mask(
    num: int, height: int, width: int, device: Device = 'cpu'
) -> Tensor:
    """One rectangle of ones per mask, shape (num, 1, height, width) (ours).

    Centre uniform, sides sqrt(1 - u) of the image's with u ~ U(0, 1), as in
    CutMix (arXiv 1905.04899, appendix A).
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

    Scale, base labels, clip and ``draws.partner``, another image of the batch
    for x2 and t2, are ours. Images are in [0, 1], shape (N, C, H, W), the
    target is probabilities, shape (N, K). See :class:`M2AT` for settings.
    """
    check_choice('label_order', label_order, LABEL_ORDERS)
    mask, ratio, partner = draws
    lam = ratio.view(-1, 1, 1, 1)
    first, second = lam * mask, (1 - lam) * (1 - mask)  # what x1, x2 keep
    keep_map = first + second
    perturbation = adversarial - images
    clean = base.smooth_labels(target, clean_label)
    perturbed = base.smooth_labels(target, perturbed_label)
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


@TASK_UTILS.register_module()
@dataclass
class M2AT(Method):
    """Masking and Mixing Adversarial Training (arXiv 2302.08066).

    Args:
        mask (str): ``'rectangle'`` as CutMix draws it, ``'pixel'`` for
            independent pixels, or ``'patch'`` for a grid of patches.
        patch_size (int): Side of a patch in pixels, for ``'patch'``.
        mix_alpha (float): The mixing ratio is drawn from
            Beta(mix_alpha, mix_alpha); 1.0 is uniform.
        clean_label (float): Confidence in [0, 1] of an unperturbed image.
        perturbed_label (float): The same of a fully perturbed image.
        label_order (str): ``'perturbed'``, or ``'literal'``: the two base
            labels are swapped, the patent's wording read literally.
        scale (float): Factor of at least 1 on the kept perturbation, half of
            the whole on average. Labels follow the unscaled share.
        pairing (str): ``'self'``: both images are the same one (patent);
            ``'batch'``: the second is from a permuted batch (ours).
        consistency (float): Weight of KL(f(x) || f(x~)), the loss of TRADES
            with the training image (ours). Not with ``pairing='batch'``.
    """

    mask: str = 'rectangle'
    patch_size: int = 4
    mix_alpha: float = 1.0
    clean_label: float = 1.0
    perturbed_label: float = 1.0
    label_order: str = 'perturbed'
    scale: float = 1.0
    pairing: str = 'self'
    consistency: float = 0.0

    def __post_init__(self) -> None:
        check_choice('mask', self.mask, MASKS)
        check_choice('label_order', self.label_order, LABEL_ORDERS)
        check_choice('pairing', self.pairing, ('self', 'batch'))
        check_count('patch_size', self.patch_size)
        check_number('mix_alpha', self.mix_alpha, above=0)
        check_number('clean_label', self.clean_label, 0, 1)
        check_number('perturbed_label', self.perturbed_label, 0, 1)
        check_number('scale', self.scale, 1)
        check_number('consistency', self.consistency, 0)
        if self.consistency and self.pairing == 'batch':
            raise ValueError(
                f'consistency={self.consistency!r} compares an image with '
                "itself, but pairing='batch' mixes two: give consistency=0 "
                "or pairing='self'"
            )

    @property
    def changes_labels(self) -> bool:
        """Whether the targets of the training images differ from theirs."""
        hard = self.clean_label == self.perturbed_label == 1
        return not hard or self.pairing == 'batch'

    def draw(self, images: Tensor) -> MixRatios:
        """Draw masks, mixing ratios and partners, on the images' device."""
        num = len(images)
        alpha = torch.full((num,), float(self.mix_alpha), device=images.device)
        # Its checks of the arguments would make the host wait.
        beta = torch.distributions.Beta(alpha, alpha, validate_args=False)
        partner = None
        if self.pairing == 'batch':
            partner = torch.randperm(num, device=images.device)
        masks = draw_masks(self.mask, images, self.patch_size)
        return MixRatios(masks, beta.sample(), partner)

    def mix(
        self,
        images: Tensor,
        adversarial: Tensor,
        target: Tensor,
        draws: MixRatios,
    ) -> MixedBatch:
        """:func:`mask_and_mix` with the settings of this method."""
        names = ('clean_label', 'perturbed_label', 'label_order', 'scale')
        settings: Any = {name: getattr(self, name) for name in names}
        return mask_and_mix(images, adversarial, target, draws, **settings)

    def training_batch(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> TrainingBatch:
        adversarial = attack(model, images, target)
        scores = base.one_hot(target, model.num_classes)
        mixed = self.mix(images, adversarial, scores, self.draw(images))
        target = mixed.target if self.changes_labels else target
        log = dict(kept_share=mixed.kept_share.mean())
        return TrainingBatch(mixed.images, target, log, mixed.keep_map)

    def loss(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        if not self.consistency:
            return super().loss(model, attack, images, target)
        batch = self.training_batch(model, attack, images, target)
        mixed, soft = batch.images, batch.target
        losses, logits = base.supervised_logits(model, mixed, soft)
        divergence = kl_divergence(logits, model(images)).mean()
        return dict(
            losses,
            loss_consistency=self.consistency * divergence,
            adversarial_accuracy=base.accuracy(logits, target),
            **batch.log,
        )
