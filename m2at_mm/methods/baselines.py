"""Methods to compare with: Standard, PGDAT, TRADES, MART, AVmixup and IAT."""

from dataclasses import dataclass
from typing import NamedTuple

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
from m2at_mm.methods.labels import one_hot, smooth_labels
from m2at_mm.registry import TASK_UTILS


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
    """CE(f(x + d), y), arXiv 1706.06083, equation 2.1."""


@TASK_UTILS.register_module()
@dataclass
class TRADES(Method):
    """CE(f(x), y) + beta * KL(f(x) || f(x')), arXiv 1901.08573, equation 5.

    x' maximises the same divergence from x + 0.001 * N(0, 1), with the train
    attack ``dict(type='m2at_mm.PGD', loss='kl', noise_std=0.001)``. ``beta``
    is at least 0, by default the authors' choice for CIFAR-10.
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
    Misclassified Examples", ICLR 2020; x' is PGD's on the cross-entropy and

        BCE(f(x'), y) = CE(f(x'), y) - log(1 - max_{k != y} p_k(x')).

    ``beta`` is at least 0, by default the authors' choice for CIFAR-10.
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
        # The guards against log(0) are those of the authors' code.
        margin = -torch.log(1.0001 - others + 1e-12)
        unsure = 1 - clean.softmax(1).gather(1, label).squeeze(1)
        divergence = kl_divergence(logits, clean)
        return dict(
            losses,
            loss_margin=margin.mean(),
            loss_consistency=self.beta * (divergence * unsure).mean(),
            adversarial_accuracy=accuracy(logits, target),
        )


@TASK_UTILS.register_module()
@dataclass
class AVmixup(Method):
    """CE on points between an image and its adversarial vertex.

    Adversarial Vertex Mixup, arXiv 2003.02484. With a ~ Beta(1, 1) for each
    image, gamma >= 1 and ls(y, q) of :func:`smooth_labels`::

        v  = clip(x + gamma*d)      t~ = a*ls(y, clean_label)
        x~ = a*x + (1-a)*v               + (1-a)*ls(y, vertex_label)
    """

    gamma: float = 2.0
    clean_label: float = 1.0
    vertex_label: float = 0.1
    changes_labels = True

    def __post_init__(self) -> None:
        check_number('gamma', self.gamma, 1)
        check_number('clean_label', self.clean_label, 0, 1)
        check_number('vertex_label', self.vertex_label, 0, 1)

    def draw(self, images: Tensor) -> Tensor:
        """The ratio a of each image, uniform in [0, 1], shape (N, )."""
        return torch.rand(len(images), device=images.device)

    def training_batch(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> TrainingBatch:
        """See :meth:`Method.training_batch`."""
        adversarial = attack(model, images, target)
        vertex = (images + self.gamma * (adversarial - images)).clamp(0, 1)
        weight = self.draw(images)
        share = weight.view(-1, 1, 1, 1)
        mixed = share * images + (1 - share) * vertex
        share, labels = weight[:, None], one_hot(target, model.num_classes)
        clean = smooth_labels(labels, self.clean_label)
        other = smooth_labels(labels, self.vertex_label)
        soft = share * clean + (1 - share) * other
        return TrainingBatch(mixed, soft, dict(kept_share=(1 - weight).mean()))


class Mixup(NamedTuple):
    """Draws of mixup (arXiv 1710.09412) for a batch."""

    #: In [0, 1], the same for all images, a scalar.
    ratio: Tensor
    #: Index of each image's partner, int64, shape (N, ).
    partner: Tensor

    def apply(self, values: Tensor) -> Tensor:
        """Mix images or probabilities, of shape (N, ...)."""
        return self.ratio * values + (1 - self.ratio) * values[self.partner]


@TASK_UTILS.register_module()
class IAT(Method):
    """Mean of the mixup losses on clean and on adversarial images.

    Interpolated Adversarial Training, arXiv 1906.06784: clean images and
    those of PGD are mixed, each with a ratio lam ~ Beta(1, 1) and partners of
    their own. The training batch is the mixed adversarial images; the truth
    of their accuracy is the label of the larger part.
    """

    changes_labels = True

    def draw(self, images: Tensor) -> tuple[Mixup, Mixup]:
        """Draw for the clean batch, and for the adversarial one."""
        return _draw_mixup(images), _draw_mixup(images)

    def _batches(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> list[TrainingBatch]:
        """The mixed clean images, and the mixed adversarial ones."""
        adversarial = attack(model, images, target)
        labels = one_hot(target, model.num_classes)
        return [
            TrainingBatch(mixup.apply(part), mixup.apply(labels))
            for mixup, part in zip(self.draw(images), (images, adversarial))
        ]

    def training_batch(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> TrainingBatch:
        """See :meth:`Method.training_batch`."""
        return self._batches(model, attack, images, target)[1]

    def loss(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        """See :meth:`Method.loss`."""
        one, other = self._batches(model, attack, images, target)
        clean, _ = model.supervised_loss(one.images, one.target)
        mixed, logits = supervised_logits(model, other.images, other.target)
        losses = {k: (clean[k] + mixed[k]) / 2 for k in clean if 'loss' in k}
        truth = other.target
        return dict(losses, adversarial_accuracy=accuracy(logits, truth))


def _draw_mixup(images: Tensor) -> Mixup:
    ratio = torch.rand((), device=images.device)
    return Mixup(ratio, torch.randperm(len(images), device=images.device))
