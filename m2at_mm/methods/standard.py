"""Standard training, without an attack."""

from __future__ import annotations

from torch import Tensor

from m2at_mm.methods.base import BoundAttack, Method, Model, TrainingBatch
from m2at_mm.registry import TASK_UTILS


@TASK_UTILS.register_module()
class Standard(Method):
    """The classifier's loss on clean images: CE(f(x), y)."""

    needs_attack = False
    accuracy_name = 'accuracy'

    def training_batch(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> TrainingBatch:
        """The clean images; the attack is not called."""
        return TrainingBatch(images, target)
