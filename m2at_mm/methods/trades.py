"""TRADES: a trade-off between clean accuracy and consistency."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from m2at_mm.attacks.losses import kl_divergence
from m2at_mm.checks import check_number
from m2at_mm.methods.base import (
    BoundAttack,
    Method,
    Model,
    accuracy,
    supervised_logits,
)
from m2at_mm.registry import TASK_UTILS


@TASK_UTILS.register_module()
@dataclass
class TRADES(Method):
    """CE(f(x), y) + beta * KL(f(x) || f(x')).

    Zhang et al., arXiv 1901.08573, equation 5. x' maximises the same
    divergence from x + 0.001 * N(0, 1): give the train attack
    ``dict(type='m2at_mm.PGD', loss='kl', noise_std=0.001)``, as the recipe
    does.

    Args:
        beta (float): Weight of the divergence, not negative. Defaults to 6.0,
            the authors' choice for CIFAR-10.
    """

    beta: float = 6.0

    def __post_init__(self) -> None:
        check_number('beta', self.beta, 0)

    def loss(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        """See :meth:`Method.loss`."""
        adversarial = attack(model, images, target)
        losses, clean = supervised_logits(model, images, target)
        logits = model(adversarial)
        return dict(
            losses,
            loss_consistency=self.beta * kl_divergence(logits, clean).mean(),
            adversarial_accuracy=accuracy(logits, target),
        )
