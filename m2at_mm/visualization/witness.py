"""What any method trains on, as seen by the model that it is given."""

from __future__ import annotations

import torch
from torch import Tensor

from m2at_mm.methods import Method
from m2at_mm.methods.base import TrainingModel
from m2at_mm.methods.masking import one_hot


class Witness:
    """A model in a method's hands that notes what it is trained on.

    What differs from the clean images is a training image: TRADES and MART
    look at the clean ones besides, IAT mixes clean ones first.

    Args:
        model (TrainingModel): Gives the logits; its loss is not asked for.
        clean (Tensor): RGB in [0, 1], shape (N, C, H, W).
        target (Tensor): Probabilities, shape (N, K).
    """

    def __init__(
        self, model: TrainingModel, clean: Tensor, target: Tensor
    ) -> None:
        self.num_classes: int | None = model.num_classes
        self.threat_model = model.threat_model
        self.images = clean
        self.target = target
        self._model = model
        self._clean = clean

    def __call__(self, images: Tensor) -> Tensor:
        """Logits, shape (N, K)."""
        self._note(images)
        return self._model(images)

    def supervised_loss(
        self, images: Tensor, target: Tensor
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The logits and no loss."""
        if self._note(images):
            self.target = one_hot(target, self.num_classes)
        logits = self._model(images)
        return dict(loss=logits.new_zeros(())), logits

    def _note(self, images: Tensor) -> bool:
        differs = not torch.equal(images, self._clean)
        if differs:
            self.images = images
        return differs


def watch(
    method: Method,
    model: TrainingModel,
    images: Tensor,
    adversarial: Tensor,
    target: Tensor,
) -> Witness:
    """Let a method make its training images of attacked ones.

    Args:
        method (Method): One that needs an attack.
        model (TrainingModel): In eval mode.
        images (Tensor): Clean, RGB in [0, 1], shape (N, C, H, W).
        adversarial (Tensor): What the attack gives, same shape.
        target (Tensor): Labels, int64 of shape (N, ).

    Returns:
        Witness: With ``images`` of shape (N, C, H, W) and ``target`` of shape
        (N, K), what the method trains on.
    """
    witness = Witness(model, images, one_hot(target, model.num_classes))
    with torch.no_grad():
        method.loss(witness, lambda *_: adversarial, images, target)
    return witness
