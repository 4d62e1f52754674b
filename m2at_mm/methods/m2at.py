"""M2AT: masking and mixing adversarial training."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from m2at_mm.attacks.losses import kl_divergence
from m2at_mm.checks import check_choice, check_count, check_number
from m2at_mm.methods.base import (
    BoundAttack,
    Method,
    Model,
    TrainingBatch,
    accuracy,
    supervised_logits,
)
from m2at_mm.methods.labels import one_hot
from m2at_mm.methods.masking import (
    LABEL_ORDERS,
    MASKS,
    MixedBatch,
    MixRatios,
    draw_masks,
    mask_and_mix,
)
from m2at_mm.registry import TASK_UTILS


@TASK_UTILS.register_module()
@dataclass
class M2AT(Method):
    """Masking and Mixing Adversarial Training (arXiv 2302.08066).

    The network trains on images that :func:`mask_and_mix` makes.

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

    Example:
        >>> dict(type='m2at_mm.M2AT', scale=2.0, perturbed_label=0.8)
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
                "itself, but pairing='batch' mixes two: set one of them back"
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
        """See :meth:`Method.training_batch`."""
        adversarial = attack(model, images, target)
        scores = one_hot(target, model.num_classes)
        mixed = self.mix(images, adversarial, scores, self.draw(images))
        target = mixed.target if self.changes_labels else target
        log = dict(kept_share=mixed.kept_share.mean())
        return TrainingBatch(mixed.images, target, log, mixed.keep_map)

    def loss(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        """See :meth:`Method.loss`."""
        if not self.consistency:
            return super().loss(model, attack, images, target)
        batch = self.training_batch(model, attack, images, target)
        losses, logits = supervised_logits(model, batch.images, batch.target)
        divergence = kl_divergence(logits, model(images)).mean()
        return dict(
            losses,
            loss_consistency=self.consistency * divergence,
            adversarial_accuracy=accuracy(logits, target),
            **batch.log,
        )
