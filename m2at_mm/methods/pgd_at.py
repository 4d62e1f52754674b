"""PGD adversarial training."""

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
class PGDAT(Method):
    """The classifier's loss on adversarial images: CE(f(x + d), y).

    Madry et al., arXiv 1706.06083, equation 2.1.
    """

    def loss(
        self,
        model: TrainingModel,
        attack: Attack,
        images: Tensor,
        target: Tensor,
    ) -> dict[str, Tensor]:
        """See :meth:`Method.loss`."""
        adversarial = attack(model, images, target)
        return supervised_step(
            model, adversarial, target, target, images.new_ones(())
        )
