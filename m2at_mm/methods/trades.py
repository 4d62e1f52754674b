"""TRADES: a trade-off between clean accuracy and consistency."""

from __future__ import annotations

from torch import Tensor

from m2at_mm.attacks.losses import kl_divergence
from m2at_mm.methods.base import (
    Attack,
    Method,
    TrainingModel,
    accuracy,
    check_number,
    supervised_logits,
)
from m2at_mm.registry import TASK_UTILS


@TASK_UTILS.register_module()
class TRADES(Method):
    """CE(f(x), y) + beta * KL(f(x) || f(x')).

    Zhang et al., arXiv 1901.08573, equation 5. x' maximises the same
    divergence from x + 0.001 * N(0, 1): give the train attack
    ``dict(type='m2at_mm.PGD', loss='kl', noise_std=0.001)``, as the recipe
    does.

    Args:
        beta (float): Weight of the divergence, not negative. Defaults to 6.0,
            the authors' choice for CIFAR-10.

    Raises:
        ValueError: ``beta`` is negative or not finite.
    """

    def __init__(self, beta: float = 6.0) -> None:
        self.beta = check_number('beta', beta)

    def loss(
        self,
        model: TrainingModel,
        attack: Attack,
        images: Tensor,
        target: Tensor,
    ) -> dict[str, Tensor]:
        """See :meth:`Method.loss`."""
        adversarial = attack(model, images, target)
        losses, clean = supervised_logits(model, images, target)
        logits = model(adversarial)
        return dict(
            losses,
            loss_consistency=self.beta * kl_divergence(logits, clean).mean(),
            kept_share=images.new_ones(()),
            adversarial_accuracy=accuracy(logits, target),
        )
