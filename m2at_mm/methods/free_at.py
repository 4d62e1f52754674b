"""Free adversarial training."""

from __future__ import annotations

import torch
from torch import Tensor

from m2at_mm.attacks.threat_model import unit_direction
from m2at_mm.methods.base import (
    Attack,
    Method,
    TrainingModel,
    supervised_step,
)
from m2at_mm.registry import TASK_UTILS


@TASK_UTILS.register_module()
class FreeAT(Method):
    """CE(f(x + d), y), where one backward pass serves weights and d.

    Shafahi et al., "Adversarial Training for Free!", arXiv 1904.12843,
    algorithm 1. Each batch is trained on m times in a row, by
    :class:`m2at_mm.RepeatedBatchTrainLoop`; the input gradient of one time
    moves the perturbation of the next by a step of eps, and the last
    perturbation of a batch is the first of the next batch.

    Unlike other methods it keeps that perturbation between iterations;
    :class:`m2at_mm.RNGStateHook` saves it with a checkpoint.
    """

    needs_attack = False
    repeatable = False

    def __init__(self) -> None:
        self._perturbation: Tensor | None = None
        self._leaf: Tensor | None = None

    def state_dict(self) -> dict[str, Tensor]:
        """The last perturbation and its gradient, both (N, C, H, W)."""
        state = {}
        if self._perturbation is not None:
            state['perturbation'] = self._perturbation
        if self._leaf is not None and self._leaf.grad is not None:
            state['gradient'] = self._leaf.grad
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See :meth:`Method.load_state_dict`."""
        self._perturbation = state.get('perturbation')
        self._leaf = None
        if 'gradient' in state:
            # Of the leaf itself only gradient and shape are used.
            self._leaf = torch.zeros_like(
                state['gradient'], requires_grad=True
            )
            self._leaf.grad = state['gradient']

    def loss(
        self,
        model: TrainingModel,
        attack: Attack,
        images: Tensor,
        target: Tensor,
    ) -> dict[str, Tensor]:
        """See :meth:`Method.loss`; the attack is not called."""
        perturbation = self._advance(model, images)
        # The backward pass of this loss fills the leaf's gradient.
        self._leaf = perturbation.clone().requires_grad_(True)
        return supervised_step(
            model,
            (images + self._leaf).clamp(0, 1),
            target,
            target,
            images.new_ones(()),
        )

    def _advance(self, model: TrainingModel, images: Tensor) -> Tensor:
        """The perturbation after the last replay's gradient, shape (N, ...).

        A batch smaller than the one before uses its first part.
        """
        kept = self._perturbation
        if kept is None or kept.shape[1:] != images.shape[1:]:
            kept = torch.zeros_like(images)
        kept = kept.to(images.device)
        if len(kept) < len(images):
            missing = torch.zeros_like(images[len(kept) :])
            kept = torch.cat([kept, missing])
        leaf = self._leaf
        if leaf is not None and leaf.grad is not None:
            if leaf.shape[1:] == kept.shape[1:]:
                num = min(len(leaf), len(kept))
                eps = model.threat_model.eps
                moved = kept[:num] + eps * _steepest(
                    leaf.grad[:num].to(kept.device), model.threat_model.norm
                )
                kept = kept.clone()
                kept[:num] = _shorten(moved, eps, model.threat_model.norm)
        self._perturbation = kept
        return kept[: len(images)]


def _steepest(gradient: Tensor, norm: str) -> Tensor:
    # In half precision a gradient can overflow; the optimiser skips that step.
    gradient = gradient.nan_to_num()
    if norm == 'linf':
        return gradient.sign()
    return unit_direction(gradient)


def _shorten(perturbation: Tensor, eps: float, norm: str) -> Tensor:
    if norm == 'linf':
        return perturbation.clamp(-eps, eps)
    length: Tensor = perturbation.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return perturbation * (eps / length.clamp(min=eps))
