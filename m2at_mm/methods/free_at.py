"""Free adversarial training."""

import torch
from torch import Tensor

from m2at_mm.attacks.threat_model import unit_direction
from m2at_mm.methods.base import BoundAttack, Method, Model, TrainingBatch
from m2at_mm.registry import TASK_UTILS


@TASK_UTILS.register_module()
class FreeAT(Method):
    """CE(f(x + d), y), where one backward pass serves weights and d.

    Adversarial Training for Free, arXiv 1904.12843, algorithm 1: each batch is
    trained on m times by :class:`m2at_mm.RepeatedBatchTrainLoop`, d moves by
    eps each time, and the last d of a batch is the first of the next one.
    """

    needs_attack = False
    repeatable = False

    def __init__(self) -> None:
        self._perturbation: Tensor | None = None
        self._leaf: Tensor | None = None

    def state_dict(self) -> dict[str, Tensor]:
        """The last perturbation and its gradient, both (N, C, H, W)."""
        gradient = None if self._leaf is None else self._leaf.grad
        state = dict(perturbation=self._perturbation, gradient=gradient)
        return {k: v for k, v in state.items() if v is not None}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See :meth:`Method.load_state_dict`."""
        self._perturbation, self._leaf = state.get('perturbation'), None
        gradient = state.get('gradient')
        if gradient is not None:
            # Of the leaf itself only gradient and shape are used.
            self._leaf = torch.zeros_like(gradient, requires_grad=True)
            self._leaf.grad = gradient

    def training_batch(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> TrainingBatch:
        """The images with the perturbation, which each call moves on."""
        # The backward pass of the loss fills the leaf's gradient.
        self._leaf = self._advance(model, images).clone().requires_grad_(True)
        return TrainingBatch((images + self._leaf).clamp(0, 1), target)

    def _advance(self, model: Model, images: Tensor) -> Tensor:
        """The perturbation after the last gradient; part of it suffices."""
        kept = self._perturbation
        if kept is None or kept.shape[1:] != images.shape[1:]:
            kept = torch.zeros_like(images)
        kept = kept.to(images.device)
        kept = torch.cat([kept, torch.zeros_like(images[len(kept) :])])
        gradient = None if self._leaf is None else self._leaf.grad
        if gradient is not None and gradient.shape[1:] == kept.shape[1:]:
            num = min(len(gradient), len(kept))
            gradient = gradient[:num].to(kept.device)
            kept[:num] = _move(kept[:num], gradient, model)
        self._perturbation = kept
        return kept[: len(images)]


def _move(perturbation: Tensor, gradient: Tensor, model: Model) -> Tensor:
    """A step of eps up the gradient, back into the ball of radius eps."""
    eps = model.threat_model.eps
    # In half precision a gradient can overflow; the optimiser skips that step.
    gradient = gradient.nan_to_num()
    if model.threat_model.norm == 'linf':
        return (perturbation + eps * gradient.sign()).clamp(-eps, eps)
    moved = perturbation + eps * unit_direction(gradient)
    length: Tensor = moved.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return moved * (eps / length.clamp(min=eps))
