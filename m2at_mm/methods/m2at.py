"""M2AT: masking and mixing adversarial training."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from m2at_mm.attacks.losses import kl_divergence
from m2at_mm.checks import check_count
from m2at_mm.methods.base import (
    Attack,
    Method,
    TrainingModel,
    accuracy,
    check_number,
    supervised_logits,
    supervised_step,
)
from m2at_mm.methods.masking import (
    LABEL_ORDERS,
    MASKS,
    MixedBatch,
    MixRatios,
    draw_masks,
    mask_and_mix,
    one_hot,
)
from m2at_mm.registry import TASK_UTILS

PAIRINGS = ('self', 'batch')


@TASK_UTILS.register_module()
class M2AT(Method):
    """Masking and Mixing Adversarial Training (arXiv 2302.08066).

    The perturbation is masked by a binary mask, the two partly perturbed
    images are mixed, and the network trains on the result; the formulas and
    their sources are in :func:`mask_and_mix`. The two steps are the paper's;
    the mask's shape, the distributions, the base labels and the scale are
    choices of this project.

    Args:
        mask (str): ``'rectangle'`` as CutMix draws it, ``'pixel'`` for
            independent pixels, or ``'patch'`` for a grid of patches. Defaults
            to ``'rectangle'``.
        patch_size (int): Side of a patch in pixels, for ``'patch'``. Defaults
            to 4.
        mix_alpha (float): The mixing ratio is drawn from
            Beta(mix_alpha, mix_alpha); 1.0 is uniform. Defaults to 1.0.
        clean_label (float): Confidence of the label of an unperturbed image,
            in [0, 1]. Defaults to 1.0.
        perturbed_label (float): Confidence of the label of a fully perturbed
            image, in [0, 1]. Hard labels are 1.0 and 1.0. Defaults to 1.0.
        label_order (str): ``'perturbed'`` or ``'literal'``, see
            :func:`mask_and_mix`. Defaults to ``'perturbed'``.
        scale (float): Factor of at least 1 on the kept perturbation. At 1
            half of the perturbation is kept on average. Defaults to 1.0.
        pairing (str): ``'self'``: both images are the same one (patent);
            ``'batch'``: the second comes from a random permutation of the
            batch, as in mixup (ours). Defaults to ``'self'``.
        consistency (float): Weight of KL(f(x) || f(x~)), the consistency loss
            of TRADES (arXiv 1901.08573) with the training image in place of
            the adversarial one (ours). Not with ``pairing='batch'``, where x~
            shows another image, too. Defaults to 0.0.

    Raises:
        ValueError: An option is unknown or out of its range.

    Example:
        >>> method = dict(type='m2at_mm.M2AT', scale=2.0, perturbed_label=0.8)
    """

    def __init__(
        self,
        mask: str = 'rectangle',
        patch_size: int = 4,
        mix_alpha: float = 1.0,
        clean_label: float = 1.0,
        perturbed_label: float = 1.0,
        label_order: str = 'perturbed',
        scale: float = 1.0,
        pairing: str = 'self',
        consistency: float = 0.0,
    ) -> None:
        for name, choice, choices in (
            ('mask', mask, MASKS),
            ('label_order', label_order, LABEL_ORDERS),
            ('pairing', pairing, PAIRINGS),
        ):
            if choice not in choices:
                raise ValueError(
                    f'{name}={choice!r} is unknown: choose one of '
                    f'{list(choices)}'
                )
        check_count('patch_size', patch_size)
        for name, value, fits, wanted in (
            (
                'mix_alpha',
                mix_alpha,
                0 < mix_alpha < math.inf,
                'finite and above 0',
            ),
            ('clean_label', clean_label, 0 <= clean_label <= 1, 'in [0, 1]'),
            (
                'perturbed_label',
                perturbed_label,
                0 <= perturbed_label <= 1,
                'in [0, 1]',
            ),
            (
                'scale',
                scale,
                1 <= scale < math.inf,
                'finite and at least 1',
            ),
        ):
            if not fits:
                raise ValueError(f'{name}={value!r} must be {wanted}')
        self.mask = mask
        self.patch_size = patch_size
        self.mix_alpha = mix_alpha
        self.clean_label = clean_label
        self.perturbed_label = perturbed_label
        self.label_order = label_order
        self.scale = scale
        self.pairing = pairing
        self.consistency = check_number('consistency', consistency)
        if consistency and pairing == 'batch':
            raise ValueError(
                f'consistency={consistency!r} compares an image with itself, '
                "but pairing='batch' mixes two: set one of them back"
            )

    @property
    def changes_labels(self) -> bool:
        """Whether the targets of the training images differ from theirs."""
        hard = self.clean_label == self.perturbed_label == 1
        return not hard or self.pairing == 'batch'

    def draw(self, images: Tensor) -> MixRatios:
        """Draw masks, mixing ratios and partners.

        Args:
            images (Tensor): In [0, 1], shape (N, C, H, W); only shape and
                device count.

        Returns:
            MixRatios: On the images' device.
        """
        num = len(images)
        alpha = torch.full((num,), float(self.mix_alpha), device=images.device)
        # Its checks of the arguments would make the host wait.
        beta = torch.distributions.Beta(alpha, alpha, validate_args=False)
        partner = None
        if self.pairing == 'batch':
            partner = torch.randperm(num, device=images.device)
        return MixRatios(
            draw_masks(self.mask, images, self.patch_size),
            beta.sample(),
            partner,
        )

    def mix(
        self,
        images: Tensor,
        adversarial: Tensor,
        target: Tensor,
        draws: MixRatios | None = None,
    ) -> MixedBatch:
        """Make the training images and targets of a batch.

        Args:
            images (Tensor): Clean images, in [0, 1], shape (N, C, H, W).
            adversarial (Tensor): In [0, 1], same shape.
            target (Tensor): Probabilities, shape (N, K).
            draws (MixRatios, optional): Masks, ratios and partners. Defaults
                to None, those of :meth:`draw`.

        Returns:
            MixedBatch: See :func:`mask_and_mix`.
        """
        return mask_and_mix(
            images,
            adversarial,
            target,
            self.draw(images) if draws is None else draws,
            clean_label=self.clean_label,
            perturbed_label=self.perturbed_label,
            label_order=self.label_order,
            scale=self.scale,
        )

    def loss(
        self,
        model: TrainingModel,
        attack: Attack,
        images: Tensor,
        target: Tensor,
    ) -> dict[str, Tensor]:
        """See :meth:`Method.loss`."""
        adversarial = attack(model, images, target)
        mixed = self.mix(
            images, adversarial, one_hot(target, model.num_classes)
        )
        labels = mixed.target if self.changes_labels else target
        share = mixed.kept_share.mean()
        if not self.consistency:
            return supervised_step(model, mixed.images, labels, target, share)
        losses, logits = supervised_logits(model, mixed.images, labels)
        divergence = kl_divergence(logits, model(images)).mean()
        return dict(
            losses,
            loss_consistency=self.consistency * divergence,
            kept_share=share,
            adversarial_accuracy=accuracy(logits, target),
        )
