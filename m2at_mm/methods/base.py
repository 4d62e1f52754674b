"""What a training method is given, and what it returns."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from m2at_mm.attacks.losses import hard_labels
from m2at_mm.attacks.threat_model import ThreatModel


def smooth_labels(target: Tensor, confidence: float) -> Tensor:
    """ls(y, q) = q*y + (1 - q)/(K - 1)*(1 - y), shape (N, K), q in [0, 1]."""
    others = (1 - confidence) / (target.size(1) - 1)
    return confidence * target + others * (1 - target)


def one_hot(target: Tensor, num_classes: int | None) -> Tensor:
    """Probabilities of shape (N, K) from labels; probabilities stay."""
    if target.ndim == 2:
        return target
    if num_classes is None:
        raise ValueError(
            'soft labels need the number of classes: set num_classes in '
            'data_preprocessor'
        )
    # F.one_hot looks at the labels first, for which the host waits.
    scores = torch.zeros(len(target), num_classes, device=target.device)
    return scores.scatter_(1, target.unsqueeze(1), 1.0)


class Model(Protocol):
    """The side of an adversarial classifier that a method sees."""

    num_classes: int | None
    threat_model: ThreatModel

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of images in [0, 1]."""

    def supervised_loss(
        self, images: Tensor, target: Tensor
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The classifier's own losses, and the logits if it tells them."""


#: A train attack with its threat model bound: of a model, clean images and
#: their target it makes adversarial images.
BoundAttack = Callable[[Model, Tensor, Tensor], Tensor]


@dataclass
class TrainingBatch:
    """What the network trains on in an iteration."""

    #: RGB in [0, 1], shape (N, C, H, W).
    images: Tensor
    #: Labels, int64 of shape (N, ), or probabilities of shape (N, K).
    target: Tensor
    #: What is logged about them, scalars by name.
    log: dict[str, Tensor] = field(default_factory=dict)
    #: Kept share of the perturbation in [0, 1], shape (N, 1, H, W).
    keep_map: Tensor | None = None


class Method:
    """Turns an attack into the loss of one iteration."""

    #: Whether the attack is called.
    needs_attack: bool = True
    #: Whether :meth:`loss` may be called twice in an iteration, as
    #: adversarial weight perturbation does.
    repeatable: bool = True
    #: Whether :meth:`loss` is defined for labels only, not for probabilities
    #: as Mixup and CutMix make them.
    needs_hard_labels: bool = False
    #: Name under which the accuracy on the training images is logged.
    accuracy_name: str = 'adversarial_accuracy'

    @property
    def changes_labels(self) -> bool:
        """Whether the network trains towards probabilities of the method."""
        return False

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs, tensors by name; most keep nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a :meth:`state_dict`, on any device."""
        if state:
            raise ValueError(
                f'{type(self).__name__} keeps nothing between iterations, but '
                f'was given {sorted(state)}: resume with the method that the '
                'checkpoint was trained with'
            )

    def training_batch(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> TrainingBatch:
        """What the network trains on; by default, the adversarial images.

        Images are clean, RGB in [0, 1], shape (N, C, H, W); the target is
        labels, int64 (N, ), or probabilities, shape (N, K).
        """
        return TrainingBatch(attack(model, images, target), target)

    def loss(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        """The losses of a batch; by default, those on the training batch.

        MMEngine sums the entries with ``loss`` in their name and logs the
        others, like the accuracy in per cent by the unmixed label.
        """
        batch = self.training_batch(model, attack, images, target)
        losses, logits = model.supervised_loss(batch.images, batch.target)
        losses = dict(losses, **batch.log)
        if logits is not None:
            losses[self.accuracy_name] = accuracy(logits, target)
        return losses


def supervised_logits(
    model: Model, images: Tensor, target: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """The classifier's own losses, and logits, by a second run if need be."""
    losses, logits = model.supervised_loss(images, target)
    return losses, model(images) if logits is None else logits


def accuracy(logits: Tensor, truth: Tensor) -> Tensor:
    """Accuracy in per cent, a scalar without gradient."""
    right = logits.detach().argmax(1) == hard_labels(truth)
    return 100 * right.float().mean()
