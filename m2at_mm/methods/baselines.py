"""Methods to compare with: from Standard and PGDAT to IAT and FreeAT."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from m2at_mm.attacks.losses import kl_divergence
from m2at_mm.attacks.threat_model import unit_direction
from m2at_mm.checks import check_number
from m2at_mm.methods import base
from m2at_mm.methods.base import BoundAttack, Method, Model, TrainingBatch
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

    x' maximises the same divergence from x + 0.001 * N(0, 1): train attack
    ``dict(type='m2at_mm.PGD', loss='kl', noise_std=0.001)``. ``beta`` >= 0 is
    by default the authors' for CIFAR-10.
    """

    beta: float = 6.0

    def __post_init__(self) -> None:
        check_number('beta', self.beta, 0)

    def loss(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        adversarial = attack(model, images, target)
        losses, clean = base.supervised_logits(model, images, target)
        logits = model(adversarial)
        return dict(
            losses,
            loss_consistency=self.beta * kl_divergence(logits, clean).mean(),
            adversarial_accuracy=base.accuracy(logits, target),
        )


@TASK_UTILS.register_module()
@dataclass
class MART(Method):
    """BCE(f(x'), y) + beta * mean(KL(f(x) || f(x')) * (1 - p_y(x))).

    Wang et al., "Improving Adversarial Robustness Requires Revisiting
    Misclassified Examples", ICLR 2020; x' is PGD's on the cross-entropy and

        BCE(f(x'), y) = CE(f(x'), y) - log(1 - max_{k != y} p_k(x')).

    ``beta`` >= 0 is by default the authors' for CIFAR-10.
    """

    beta: float = 5.0
    needs_hard_labels = True

    def __post_init__(self) -> None:
        check_number('beta', self.beta, 0)

    def loss(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        adversarial = attack(model, images, target)
        clean = model(images)
        losses, logits = base.supervised_logits(model, adversarial, target)
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
            adversarial_accuracy=base.accuracy(logits, target),
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
        adversarial = attack(model, images, target)
        vertex = (images + self.gamma * (adversarial - images)).clamp(0, 1)
        weight = self.draw(images)
        share = weight.view(-1, 1, 1, 1)
        mixed = share * images + (1 - share) * vertex
        share = weight[:, None]
        labels = base.one_hot(target, model.num_classes)
        clean = base.smooth_labels(labels, self.clean_label)
        other = base.smooth_labels(labels, self.vertex_label)
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

    Interpolated Adversarial Training, arXiv 1906.06784: both are mixed, with
    a ratio lam ~ Beta(1, 1) and partners of their own. The training batch is
    the mixed adversarial images, whose truth is the label of the larger part.
    """

    changes_labels = True

    def draw(self, images: Tensor) -> tuple[Mixup, Mixup]:
        """Draw for the clean batch, and for the adversarial one."""
        return _draw_mixup(images), _draw_mixup(images)

    def _batches(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> list[TrainingBatch]:
        adversarial = attack(model, images, target)
        labels = base.one_hot(target, model.num_classes)
        return [
            TrainingBatch(mixup.apply(part), mixup.apply(labels))
            for mixup, part in zip(self.draw(images), (images, adversarial))
        ]

    def training_batch(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> TrainingBatch:
        return self._batches(model, attack, images, target)[1]

    def loss(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        one, other = self._batches(model, attack, images, target)
        clean, _ = model.supervised_loss(one.images, one.target)
        inputs, truth = other.images, other.target
        mixed, logits = base.supervised_logits(model, inputs, truth)
        losses = {k: (clean[k] + mixed[k]) / 2 for k in clean if 'loss' in k}
        return dict(losses, adversarial_accuracy=base.accuracy(logits, truth))


def _draw_mixup(images: Tensor) -> Mixup:
    ratio = torch.rand((), device=images.device)
    return Mixup(ratio, torch.randperm(len(images), device=images.device))


@TASK_UTILS.register_module()
class FreeAT(Method):
    """CE(f(x + d), y), where one backward pass serves weights and d.

    Adversarial Training for Free, arXiv 1904.12843, algorithm 1: with
    :class:`m2at_mm.RepeatedBatchTrainLoop` d moves by eps in each repetition
    of a batch, and its last d is the first of the next one.
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
