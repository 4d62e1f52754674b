"""MART: misclassification-aware adversarial training."""

from __future__ import annotations

import torch
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

# The authors' guards against log(0), in their published code.
_ABOVE_ONE = 1.0001
_ABOVE_ZERO = 1e-12


@TASK_UTILS.register_module()
class MART(Method):
    r"""BCE(f(x'), y) + beta * mean(KL(f(x) || f(x')) * (1 - p_y(x))).

    Wang et al., "Improving Adversarial Robustness Requires Revisiting
    Misclassified Examples", ICLR 2020, with

        BCE(f(x'), y) = CE(f(x'), y) - log(1 - max_{k != y} p_k(x')).

    CE is the classifier's own loss. x' is PGD's on the cross-entropy.

    Args:
        beta (float): Weight of the second term, not negative. Defaults to
            5.0, the authors' lambda for CIFAR-10.

    Raises:
        ValueError: ``beta`` is negative or not finite.
    """

    needs_hard_labels = True

    def __init__(self, beta: float = 5.0) -> None:
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
            kept_share=images.new_ones(()),
            adversarial_accuracy=accuracy(logits, target),
        )
