"""A model as the attacks of an evaluation see it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from m2at_mm.attacks.logits import logits_of


class Attackable(nn.Module):
    """A model whose input always has a finite gradient.

    An attack on a model that detaches its input, like one that rounds to
    integers, would end in an error of autograd, and one not-a-number would
    spoil its image. Here such a gradient is zero: the attack runs and fails,
    and an alarm tells why. Logits are not changed.

    Args:
        model (nn.Module): Maps images in [0, 1], shape (N, C, H, W), to
            logits of shape (N, K).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (N, K)."""
        logits: Tensor
        if not images.requires_grad:
            logits = logits_of(self.model, images)
            return logits
        seen = images.view_as(images)
        seen.register_hook(
            lambda gradient: torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
        )
        logits = logits_of(self.model, seen)
        return logits if logits.requires_grad else logits + 0 * images.sum()
