"""What every attack is: settings, called on a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from m2at_mm.attacks import losses
from m2at_mm.attacks.context import attack_mode
from m2at_mm.attacks.logits import full, logits_of
from m2at_mm.attacks.threat_model import Ball, ThreatModel

# Forward and backward passes from which on it pays to look for batch norms to
# fold, which takes the host's time in the first pass: on a GPU it was made up
# for after 8 passes, 3.0 ms and 0.4 ms a pass for ResNet-18 on one core.
_FEWEST_ON_CPU, _FEWEST_ON_GPU = 2, 8


class Attack(ABC):
    """Base class of the attacks; a subclass implements :meth:`perturb`."""

    #: Factor on the length of each step, which a guard lowers in training.
    step_factor: float = 1.0
    #: Number of projected gradient steps, None for attacks of another kind.
    steps: int | None = None
    #: Loss that they raise.
    loss: str = 'ce'
    #: Whether the attacked model is never asked for a gradient.
    black_box: bool = False

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        target: Tensor,
        threat_model: ThreatModel,
        *,
        stop_when_fooled: bool = False,
        check_range: bool = True,
    ) -> Tensor:
        """Attack a batch.

        Args:
            model (nn.Module): Maps images in [0, 1] to logits, shape (N, K).
            images (Tensor): Clean images, RGB in [0, 1], shape (N, C, H, W).
            target (Tensor): What to move away from: labels, int64 (N, ), or
                probabilities, shape (N, K).
            threat_model (ThreatModel): Norm and radius.
            stop_when_fooled (bool): For evaluation, where the attack can: an
                image that is misclassified, also the clean one, is done.
            check_range (bool): Check values, for which the host waits.

        Returns:
            Tensor: Images inside ball and box exactly, shape (N, C, H, W);
            float32, or float64 if the given ones are.

        Raises:
            TypeError: Images, target or logits are of a wrong shape or type.
            ValueError: Images are not in [0, 1], or the target is wrong.
        """
        if images.ndim != 4 or not images.is_floating_point():
            raise TypeError(
                'images must be floats of shape (N, C, H, W), but got '
                f'{images.dtype} of shape {tuple(images.shape)}'
            )
        if check_range and images.numel():
            low, high = images.min(), images.max()
            if not (0 <= low and high <= 1):  # nor NaN
                raise ValueError(
                    f'images must be in [0, 1], but are in [{low:g}, {high:g}'
                    ']: divide 0-255 values by 255, and let the model '
                    'normalise, not the data'
                )
        target = losses.as_target(target, len(images), check_range)
        # Copies are no inference tensors, which autograd would not take.
        with torch.inference_mode(False):
            images = full(images.detach().clone())
            target = target.detach().clone()
        given = model, images, target, threat_model
        return self.perturb(Batch(*given, stop_when_fooled, check_range))

    @abstractmethod
    def perturb(self, batch: Batch) -> Tensor:
        """The attacked images of a batch, see :meth:`__call__`."""

    def length_of_step(self, threat_model: ThreatModel) -> float | None:
        """Length of one step; None where ``step_factor`` changes none."""
        return None


@dataclass
class Batch:
    """The checked arguments of an attack, and what losses compare with."""

    model: nn.Module
    images: Tensor
    target: Tensor
    threat_model: ThreatModel
    stop_when_fooled: bool = False
    check_values: bool = True
    compile_mode: str | None = None
    reference: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.labels = losses.hard_labels(self.target)
        if self.reference is None:
            self.reference = self.target

    @cached_property
    def ball(self) -> Ball:
        """The allowed images."""
        return self.threat_model.ball(self.images)

    def __getitem__(self, index: Tensor) -> Batch:
        """The part of the batch at ``index``, a mask or positions."""
        parts = ('images', 'target', 'reference')
        return replace(self, **{k: getattr(self, k)[index] for k in parts})

    def attack_mode(
        self, bn_mode: str, full_precision: bool, passes: int
    ) -> AbstractContextManager[None]:
        """See :func:`m2at_mm.attacks.attack_mode`, for so many passes."""
        on_cpu = self.images.device.type == 'cpu'
        pays = passes >= (_FEWEST_ON_CPU if on_cpu else _FEWEST_ON_GPU)
        images = self.images if pays and self.compile_mode is None else None
        return attack_mode(self.model, bn_mode, images, full_precision)

    def logits(self, images: Tensor) -> Tensor:
        """Logits of attacked images, in float32 at least, (N, K)."""
        logits = logits_of(self.model, images, self.compile_mode)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            found = f'a {type(logits).__name__}'
            if isinstance(logits, Tensor):
                found = f'a tensor of shape {tuple(logits.shape)}'
            raise TypeError(
                'an attacked model must return logits of shape (N, K), but '
                f'{type(self.model).__name__} returned {found}'
            )
        losses.check_classes(self.target, logits.shape[1], self.check_values)
        self.check_values = False
        return full(logits)

    def gradient(
        self, loss: losses.AttackLoss, images: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The logits, and the gradient of the summed loss, detached."""
        images = images.detach().requires_grad_(True)
        logits = self.logits(images)
        total = loss(logits, self.reference).sum()
        try:
            return logits.detach(), torch.autograd.grad(total, images)[0]
        except RuntimeError as error:
            if 'checkpoint' not in str(error).lower():
                raise
            raise RuntimeError(
                'an attack needs the gradient of the images, which reentrant '
                'activation checkpointing cannot give: call '
                'torch.utils.checkpoint.checkpoint by that name, so that it '
                'can be replaced, or with use_reentrant=False'
            ) from error

    @torch.no_grad()
    def fooled(self, images: Tensor) -> Tensor:
        """Which attacked images are misclassified, bool of shape (N, )."""
        # Not predicted_labels(): images whose logits overflow must stay in
        # the attack, for their gradient to be reported.
        return self.logits(images).argmax(1) != self.labels
