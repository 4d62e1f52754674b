"""What a training method is given, and what it returns."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Protocol

from torch import Tensor

from m2at_mm.attacks.losses import hard_labels
from m2at_mm.attacks.threat_model import ThreatModel


class TrainingModel(Protocol):
    """The side of a classifier that a method sees.

    :class:`m2at_mm.model_wrappers.AdversarialClassifier` is one.
    """

    num_classes: int | None
    threat_model: ThreatModel

    def __call__(self, images: Tensor) -> Tensor:
        """The attacked function.

        Args:
            images (Tensor): RGB in [0, 1], shape (N, C, H, W).

        Returns:
            Tensor: Logits, shape (N, K).
        """

    def supervised_loss(
        self, images: Tensor, target: Tensor
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The classifier's own losses on given images and targets.

        Args:
            images (Tensor): RGB in [0, 1], shape (N, C, H, W).
            target (Tensor): Labels, int64 of shape (N, ), or probabilities
                of shape (N, K).

        Returns:
            tuple: The losses by name, and the logits of shape (N, K), or
            None if the classifier does not tell them.
        """


class Attack(Protocol):
    """A train attack with its threat model already bound."""

    def __call__(
        self, model: TrainingModel, images: Tensor, target: Tensor
    ) -> Tensor:
        """Attack a batch.

        Args:
            model (TrainingModel): The attacked model.
            images (Tensor): Clean images, RGB in [0, 1], shape (N, C, H, W).
            target (Tensor): Labels, int64 of shape (N, ), or probabilities
                of shape (N, K).

        Returns:
            Tensor: Adversarial images in [0, 1], shape (N, C, H, W).
        """


class Method(ABC):
    """Turns an attack into the loss of one iteration.

    A method holds settings: no parameters, no knowledge of the network. So
    every method is trained by the same loop. What it keeps from one iteration
    to the next, it gives as :meth:`state_dict`.
    """

    #: Whether :meth:`loss` calls the attack.
    needs_attack: bool = True
    #: Whether :meth:`loss` may be called twice in an iteration, as
    #: adversarial weight perturbation does.
    repeatable: bool = True
    #: Whether :meth:`loss` is defined for labels only, not for probabilities
    #: as Mixup and CutMix make them.
    needs_hard_labels: bool = False

    @property
    def changes_labels(self) -> bool:
        """Whether :meth:`loss` trains towards probabilities of its own."""
        return False

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs, tensors by name; most keep nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what :meth:`state_dict` gave.

        Args:
            state (dict[str, Tensor]): On any device.

        Raises:
            ValueError: This method keeps nothing.
        """
        if state:
            raise ValueError(
                f'{type(self).__name__} keeps nothing between iterations, but '
                f'was given {sorted(state)}: resume with the method that the '
                'checkpoint was trained with'
            )

    @abstractmethod
    def loss(
        self,
        model: TrainingModel,
        attack: Attack,
        images: Tensor,
        target: Tensor,
    ) -> dict[str, Tensor]:
        """The losses of one batch, and what is logged with them.

        Args:
            model (TrainingModel): The classifier in training.
            attack (Attack): Gives adversarial images.
            images (Tensor): RGB in [0, 1], shape (N, C, H, W).
            target (Tensor): Labels, int64 of shape (N, ), or probabilities
                of shape (N, K).

        Returns:
            dict[str, Tensor]: MMEngine sums the entries whose name contains
            ``loss`` for the backward pass and logs the others:
            ``kept_share``, the mean share of the perturbation in the training
            images, and ``adversarial_accuracy``, the accuracy on the training
            images in per cent, with the unmixed label as truth.
        """


def supervised_step(
    model: TrainingModel,
    images: Tensor,
    target: Tensor,
    truth: Tensor,
    kept_share: Tensor,
) -> dict[str, Tensor]:
    """The classifier's own loss on the training images, with the log.

    Args:
        model (TrainingModel): The classifier in training.
        images (Tensor): The training images, in [0, 1], shape (N, C, H, W).
        target (Tensor): What they are trained towards.
        truth (Tensor): Their true labels, for the logged accuracy.
        kept_share (Tensor): Logged as it is, a scalar.

    Returns:
        dict[str, Tensor]: See :meth:`Method.loss`.
    """
    losses, logits = model.supervised_loss(images, target)
    losses = dict(losses, kept_share=kept_share)
    if logits is not None:
        losses['adversarial_accuracy'] = accuracy(logits, truth)
    return losses


def supervised_logits(
    model: TrainingModel, images: Tensor, target: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """The classifier's own losses with the logits behind them.

    A classifier whose loss does not tell its logits is asked a second time.
    """
    losses, logits = model.supervised_loss(images, target)
    return losses, model(images) if logits is None else logits


def accuracy(logits: Tensor, truth: Tensor) -> Tensor:
    """Accuracy in per cent, a scalar without gradient.

    Args:
        logits (Tensor): Shape (N, K).
        truth (Tensor): Labels of shape (N, ) or probabilities of (N, K).
    """
    right = logits.detach().argmax(1) == hard_labels(truth)
    return 100 * right.float().mean()


def check_number(
    name: str, value: float, low: float = 0.0, high: float = math.inf
) -> float:
    """Return a finite number between bounds, or raise ValueError."""
    if not (low <= value <= high and math.isfinite(value)):
        wanted = f'from {low:g} to {high:g}'
        if high == math.inf:
            wanted = f'finite and at least {low:g}'
        raise ValueError(f'{name}={value!r} must be {wanted}')
    return value
