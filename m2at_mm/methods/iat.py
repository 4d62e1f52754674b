"""Interpolated adversarial training."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from m2at_mm.methods.base import (
    Attack,
    Method,
    TrainingModel,
    accuracy,
    supervised_logits,
)
from m2at_mm.methods.masking import one_hot
from m2at_mm.registry import TASK_UTILS


class Mixup(NamedTuple):
    """Draws of mixup for a batch.

    Attributes:
        ratio (Tensor): In [0, 1], the same for all images, a scalar.
        partner (Tensor): Index of each image's partner, int64, shape (N, ).
    """

    ratio: Tensor
    partner: Tensor

    def apply(self, values: Tensor) -> Tensor:
        """Mix the rows of a tensor.

        Args:
            values (Tensor): Images or probabilities, shape (N, ...).

        Returns:
            Tensor: Same shape.
        """
        return self.ratio * values + (1 - self.ratio) * values[self.partner]


@TASK_UTILS.register_module()
class IAT(Method):
    """Mean of the mixup losses on clean and on adversarial images.

    Lamb et al., "Interpolated Adversarial Training", arXiv 1906.06784:
    x' is PGD's against the unmixed image; the clean and the
    adversarial batch are mixed with a ratio lam ~ Beta(1, 1) and partners of
    their own, as in mixup (arXiv 1710.09412), and each gives half of the loss.
    The logged ``adversarial_accuracy`` is that on the mixed adversarial
    images, with the label of the larger part as truth.
    """

    @property
    def changes_labels(self) -> bool:
        """See :attr:`Method.changes_labels`; it mixes them."""
        return True

    def draw(self, images: Tensor) -> tuple[Mixup, Mixup]:
        """Draw for the clean batch, and for the adversarial one.

        Args:
            images (Tensor): In [0, 1], shape (N, C, H, W); only number and
                device count.

        Returns:
            tuple[Mixup, Mixup]: For the one and the other.
        """
        clean, adversarial = (
            Mixup(
                torch.rand((), device=images.device),
                torch.randperm(len(images), device=images.device),
            )
            for _ in range(2)
        )
        return clean, adversarial

    def loss(
        self,
        model: TrainingModel,
        attack: Attack,
        images: Tensor,
        target: Tensor,
    ) -> dict[str, Tensor]:
        """See :meth:`Method.loss`."""
        adversarial = attack(model, images, target)
        labels = one_hot(target, model.num_classes)
        first, second = self.draw(images)
        clean, _ = model.supervised_loss(
            first.apply(images), first.apply(labels)
        )
        truth = second.apply(labels)
        mixed, logits = supervised_logits(
            model, second.apply(adversarial), truth
        )
        losses = {
            name: (clean[name] + mixed[name]) / 2
            for name in clean
            if 'loss' in name
        }
        return dict(
            losses,
            kept_share=images.new_ones(()),
            adversarial_accuracy=accuracy(logits, truth),
        )
