"""Interpolated adversarial training."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from m2at_mm.methods.base import (
    BoundAttack,
    Method,
    Model,
    TrainingBatch,
    accuracy,
    supervised_logits,
)
from m2at_mm.methods.labels import one_hot
from m2at_mm.registry import TASK_UTILS


class Mixup(NamedTuple):
    """Draws of mixup for a batch."""

    #: In [0, 1], the same for all images, a scalar.
    ratio: Tensor
    #: Index of each image's partner, int64, shape (N, ).
    partner: Tensor

    def apply(self, values: Tensor) -> Tensor:
        """Mix images or probabilities, of shape (N, ...)."""
        return self.ratio * values + (1 - self.ratio) * values[self.partner]


@TASK_UTILS.register_module()
class IAT(Method):
    """Mean of the mixup losses on clean and on adversarial images.

    Lamb et al., "Interpolated Adversarial Training", arXiv 1906.06784:
    x' is PGD's against the unmixed image; the clean and the
    adversarial batch are mixed with a ratio lam ~ Beta(1, 1) and partners of
    their own, as in mixup (arXiv 1710.09412), and each gives half of the loss.
    :meth:`training_batch` and the logged ``adversarial_accuracy`` are those
    of the mixed adversarial images; its truth is the label of the larger part.
    """

    @property
    def changes_labels(self) -> bool:
        """See :attr:`Method.changes_labels`."""
        return True

    def draw(self, images: Tensor) -> tuple[Mixup, Mixup]:
        """Draw for the clean batch, and for the adversarial one."""
        clean, adversarial = (
            Mixup(
                torch.rand((), device=images.device),
                torch.randperm(len(images), device=images.device),
            )
            for _ in range(2)
        )
        return clean, adversarial

    def _batches(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> list[TrainingBatch]:
        """The mixed clean images, and the mixed adversarial ones."""
        adversarial = attack(model, images, target)
        labels = one_hot(target, model.num_classes)
        return [
            TrainingBatch(mixup.apply(part), mixup.apply(labels))
            for mixup, part in zip(self.draw(images), (images, adversarial))
        ]

    def training_batch(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> TrainingBatch:
        """See :meth:`Method.training_batch`."""
        return self._batches(model, attack, images, target)[1]

    def loss(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        """See :meth:`Method.loss`."""
        first, second = self._batches(model, attack, images, target)
        clean, _ = model.supervised_loss(first.images, first.target)
        mixed, logits = supervised_logits(model, second.images, second.target)
        losses = {
            name: (clean[name] + mixed[name]) / 2
            for name in clean
            if 'loss' in name
        }
        truth = second.target
        return dict(losses, adversarial_accuracy=accuracy(logits, truth))
