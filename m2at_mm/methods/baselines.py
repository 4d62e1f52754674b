"""Methods to compare with: Standard, PGDAT, TRADES and MART."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from m2at_mm.attacks.losses import kl_divergence
from m2at_mm.checks import check_number
from m2at_mm.methods.base import (
    BoundAttack,
    Method,
    Model,
    TrainingBatch,
    accuracy,
    supervised_logits,
)
from m2at_mm.registry import TASK_UTILS

# The guards of MART's authors against log(0), in their published code.
_ABOVE_ONE = 1.0001
_ABOVE_ZERO = 1e-12


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


@TASK_UTILS.register_module()
class PGDAT(Method):
    """The classifier's loss on adversarial images: CE(f(x + d), y).

    Madry et al., arXiv 1706.06083, equation 2.1.
    """


@TASK_UTILS.register_module()
@dataclass
class TRADES(Method):
    """CE(f(x), y) + beta * KL(f(x) || f(x')).

    Zhang et al., arXiv 1901.08573, equation 5. x' maximises the same
    divergence from x + 0.001 * N(0, 1): give the train attack
    ``dict(type='m2at_mm.PGD', loss='kl', noise_std=0.001)``, as the recipe
    does.

    Args:
        beta (float): Weight of the divergence, not negative; by default the
            authors' choice for CIFAR-10.
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


@TASK_UTILS.register_module()
@dataclass
class MART(Method):
    """BCE(f(x'), y) + beta * mean(KL(f(x) || f(x')) * (1 - p_y(x))).

    Wang et al., "Improving Adversarial Robustness Requires Revisiting
    Misclassified Examples", ICLR 2020, with

        BCE(f(x'), y) = CE(f(x'), y) - log(1 - max_{k != y} p_k(x')).

    CE is the classifier's own loss. x' is PGD's on the cross-entropy.

    Args:
        beta (float): Weight of the second term, not negative; by default the
            authors' lambda for CIFAR-10.
    """

    beta: float = 5.0
    needs_hard_labels = True

    def __post_init__(self) -> None:
        check_number('beta', self.beta, 0)

    def loss(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        """See :meth:`Method.loss`."""
        adversarial = attack(model, images, target)
        clean = model(images)
        losses, logits = supervised_logits(model, adversarial, target)
        label = target.unsqueeze(1)
        others = logits.softmax(1).scatter(1, label, 0).amax(1)
        margin = -torch.log(_ABOVE_ONE - others + _ABOVE_ZERO)
        unsure = 1 - clean.softmax(1).gather(1, label).squeeze(1)
        divergence = kl_divergence(logits, clean)
        return dict(
            losses,
            loss_margin=margin.mean(),
            loss_consistency=self.beta * (divergence * unsure).mean(),
            adversarial_accuracy=accuracy(logits, target),
        )
