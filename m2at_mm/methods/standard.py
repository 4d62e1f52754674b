"""Standard training, without an attack."""

from __future__ import annotations

from torch import Tensor

from m2at_mm.methods.base import (
    Attack,
    Method,
    TrainingModel,
    supervised_step,
)
from m2at_mm.registry import TASK_UTILS


@TASK_UTILS.register_module()
class Standard(Method):
    """The classifier's loss on clean images: CE(f(x), y)."""

    needs_attack = False

    def loss(
        self,
        model: TrainingModel,
        attack: Attack,
        images: Tensor,
        target: Tensor,
    ) -> dict[str, Tensor]:
        """See :meth:`Method.loss`; the attack is not called."""
        return supervised_step(
            model, images, target, target, images.new_zeros(())
        )
