"""The training iterations that ours is timed beside."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2at_mm.attacks import Attack
from m2at_mm.model_wrappers import AdversarialClassifier

#: The rivals, and what each is.
RIVALS = {
    'plain': 'a loop of plain PyTorch: train mode, gradients of all weights '
    'at each step, contiguous float32',
    'script': 'that loop with the two further forward passes of the public '
    'scripts on robust overfitting',
    'torchattacks': 'the PGD of torchattacks, then a step in contiguous '
    'float32',
    'limit': 'the passes alone: forward and input gradient per attack step, '
    'one full step',
}


class Contestant:
    """A training iteration on one batch that is there already.

    It trains a network of its own, a copy, so that no state is shared.

    Args:
        model (AdversarialClassifier): Copied. Its threat model gives the
            radius.
        images (Tensor): RGB in [0, 1], shape (N, C, H, W).
        labels (Tensor): int64, shape (N, ).
        attack (PGD, optional): Gives steps and step size. Defaults to None,
            the train attack.
    """

    #: Whether batches are in the layout of our preprocessor, and under the
    #: precision of the optimiser wrapper.
    tuned = False

    def __init__(
        self,
        model: AdversarialClassifier,
        images: Tensor,
        labels: Tensor,
        attack: Attack | None = None,
    ) -> None:
        self._layout: torch.memory_format = torch.contiguous_format
        if self.tuned:
            self._layout = model.data_preprocessor.memory_format
        self.load(images, labels)
        self.network = _Network(copy.deepcopy(model)).train()
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4
        )
        attack = attack or model.train_attack
        assert attack is not None
        self.steps = attack.steps
        self.eps = model.threat_model.eps
        step_size = attack.length_of_step(model.threat_model)
        assert step_size is not None
        self.step_size = step_size

    def load(self, images: Tensor, labels: Tensor) -> None:
        """Go on with another batch.

        Args:
            images (Tensor): RGB in [0, 1], shape (N, C, H, W).
            labels (Tensor): int64, shape (N, ).
        """
        self.images = images.detach().clone(memory_format=self._layout)
        self.labels = labels

    def attack(self) -> Tensor:
        """Adversarial images of the batch, shape (N, C, H, W)."""
        raise NotImplementedError

    def iterate(self) -> None:
        """Attack the batch and train a step on the result."""
        self.train_step(self.attack())

    def train_step(self, images: Tensor) -> None:
        """A step of SGD on the cross-entropy.

        Args:
            images (Tensor): In [0, 1], shape (N, C, H, W).
        """
        self.optimizer.zero_grad()
        F.cross_entropy(self.network(images), self.labels).backward()
        self.optimizer.step()


class PlainLoop(Contestant):
    """PGD adversarial training as it is written by hand.

    The network stays in train mode, and each attack step computes the
    gradients of all weights along with that of the images.
    """

    def attack(self) -> Tensor:
        """See :meth:`Contestant.attack`."""
        images, eps = self.images, self.eps
        delta = torch.empty_like(images).uniform_(-eps, eps)
        delta = (images + delta).clamp(0, 1) - images
        delta.requires_grad_(True)
        for _ in range(self.steps):
            loss = F.cross_entropy(self.network(images + delta), self.labels)
            loss.backward()
            assert delta.grad is not None
            step = self.step_size * delta.grad.detach().sign()
            moved = (delta.detach() + step).clamp(-eps, eps)
            delta.data = (images + moved).clamp(0, 1) - images
            delta.grad.zero_()
        return (images + delta.detach()).clamp(0, 1)


class Script(PlainLoop):
    """The loop of the public scripts on robust overfitting.

    Those of arXiv 2002.11569, ``train_cifar.py``, which many have copied:
    after the attack a forward pass, by which they choose among restarts, also
    where there is one; after the training step another on the clean images,
    for the log. Both keep the graph.
    """

    def attack(self) -> Tensor:
        """See :meth:`Contestant.attack`."""
        adversarial = super().attack()
        losses = F.cross_entropy(
            self.network(adversarial), self.labels, reduction='none'
        )
        worse = losses.detach() >= 0
        return torch.where(worse.view(-1, 1, 1, 1), adversarial, self.images)

    def train_step(self, images: Tensor) -> None:
        """See :meth:`Contestant.train_step`."""
        super().train_step(images)
        logits = self.network(self.images)
        F.cross_entropy(logits, self.labels).item()
        (logits.argmax(1) == self.labels).sum().item()


class Torchattacks(Contestant):
    """A training step around the PGD of torchattacks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        import torchattacks

        self._pgd = torchattacks.PGD(
            self.network, self.eps, self.step_size, self.steps
        )

    def attack(self) -> Tensor:
        """See :meth:`Contestant.attack`."""
        adversarial: Tensor = self._pgd(self.images, self.labels)
        return adversarial


class Limit(Contestant):
    """The passes of the network, and nothing else.

    Args:
        precision (Callable, optional): Makes the context of the passes, like
            autocast. Defaults to None, float32.
        **kwargs: See :class:`Contestant`.
    """

    tuned = True

    def __init__(
        self,
        *args: Any,
        precision: Callable[[], AbstractContextManager[Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.precision = precision or nullcontext

    def attack(self) -> Tensor:
        """See :meth:`Contestant.attack`."""
        parameters = list(self.network.parameters())
        self.network.eval()
        for parameter in parameters:
            parameter.requires_grad_(False)
        images = self.images.detach().requires_grad_(True)
        for _ in range(self.steps):
            with self.precision():
                loss = F.cross_entropy(self.network(images), self.labels)
            torch.autograd.grad(loss, images)
        for parameter in parameters:
            parameter.requires_grad_(True)
        self.network.train()
        return self.images

    def train_step(self, images: Tensor) -> None:
        """See :meth:`Contestant.train_step`."""
        self.optimizer.zero_grad()
        with self.precision():
            loss = F.cross_entropy(self.network(images), self.labels)
        loss.backward()
        self.optimizer.step()


_LOOPS = {'plain': PlainLoop, 'script': Script, 'torchattacks': Torchattacks}


def build_rivals(
    names: Sequence[str],
    model: AdversarialClassifier,
    images: Tensor,
    labels: Tensor,
    precision: Callable[[], AbstractContextManager[Any]] | None = None,
) -> dict[str, Contestant]:
    """What our training is compared with.

    Args:
        names (Sequence[str]): Some of :data:`RIVALS`.
        model (AdversarialClassifier): See :class:`Contestant`.
        images (Tensor): RGB in [0, 1], shape (N, C, H, W).
        labels (Tensor): int64, shape (N, ).
        precision (Callable, optional): See :class:`Limit`.

    Returns:
        dict[str, Contestant]: By name.

    Raises:
        ValueError: The train attack has no steps to compare.
    """
    check_attack(model.train_attack)
    made: dict[str, Contestant] = {}
    for name in names:
        if name == 'limit':
            made[name] = Limit(model, images, labels, precision=precision)
        else:
            made[name] = _LOOPS[name](model, images, labels)
    return made


def check_attack(attack: object) -> None:
    """Raise ValueError where a train attack has no steps to compare."""
    if getattr(attack, 'steps', None) is None:
        raise ValueError(
            f'train_attack={type(attack).__name__} has no number '
            "of steps: benchmark a config with dict(type='m2at_mm.PGD')"
        )


class _Network(nn.Module):
    """Logits of images in [0, 1], and nothing of the wrapper else."""

    def __init__(self, model: AdversarialClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits
