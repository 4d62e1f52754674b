"""Projected gradient descent, and attacks of a single step."""

import os
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from m2at_mm.attacks.base import Attack, Batch
from m2at_mm.attacks.context import BN_MODES
from m2at_mm.attacks.logits import COMPILE_MODES, predicted_labels
from m2at_mm.attacks.losses import LOSSES, cross_entropy
from m2at_mm.attacks.threat_model import (
    Pixels,
    ThreatModel,
    parse_length,
    parse_pixels,
)
from m2at_mm.checks import check_choice, check_count, check_number
from m2at_mm.registry import TASK_UTILS


@TASK_UTILS.register_module()
@dataclass(eq=False)
class PGD(Attack):
    """Projected gradient ascent on a loss (arXiv 1706.06083).

    Where it stops at fooled images, its call raises a ``FloatingPointError``
    if an image's gradient is not finite.

    Args:
        steps (int): Gradient steps, at least 1.
        step_size (str | float, optional): Length of a step in the norm, on
            the scale of images in [0, 1]. Defaults to a quarter of the radius.
        loss (str): ``'ce'``, the cross-entropy; ``'margin'``, the best wrong
            logit minus the right one; or ``'kl'``, the divergence from the
            clean images' probabilities.
        random_start (bool): Start at a random point of the ball.
        noise_std (float, optional): Start at Gaussian noise of this standard
            deviation around the clean image. Defaults to a uniform start.
        restarts (int): Runs, each from a start of its own. Per image the
            misclassified result is kept, among equals that of higher loss.
        bn_mode (str): See :func:`attack_mode`. Only with ``'eval'`` can an
            image leave the batch once it is misclassified.
        full_precision (bool): Under autocast, attack in float32 all the same.
        compile_mode (str, optional): A mode of :func:`torch.compile`, for
            PyTorch 2.4 or later.
    """

    steps: int = 10
    step_size: Pixels | None = None
    loss: str = 'ce'
    random_start: bool = True
    noise_std: float | None = None
    restarts: int = 1
    bn_mode: str = 'eval'
    full_precision: bool = False
    compile_mode: str | None = None
    #: Source of the random starts, PyTorch's own by default.
    generator: torch.Generator | None = field(
        default=None, init=False, repr=False
    )
    step = 0.25  # length of a step without a step_size, in radii

    def __post_init__(self) -> None:
        check_count('steps', self.steps)
        check_count('restarts', self.restarts)
        check_choice('loss', self.loss, LOSSES)
        check_choice('bn_mode', self.bn_mode, BN_MODES)
        check_choice('compile_mode', self.compile_mode, (None, *COMPILE_MODES))
        if self.step_size is not None:
            parse_length(self.step_size, 'step_size')
        if self.loss == 'kl' and not self.random_start:
            raise ValueError(
                "loss='kl' has no gradient at the clean image: set "
                "random_start=True, or choose 'ce' or 'margin'"
            )
        if self.noise_std is not None:
            check_number('noise_std', self.noise_std, above=0, most=1)
            if not self.random_start:
                raise ValueError(
                    f'noise_std={self.noise_std!r} is a random start: set '
                    'random_start=True, or leave it out'
                )

    def perturb(self, batch: Batch) -> Tensor:
        """See :class:`Attack`."""
        stop = batch.stop_when_fooled and self.bn_mode == 'eval'
        passes = self.steps * self.restarts
        batch.compile_mode = self.compile_mode
        with batch.attack_mode(self.bn_mode, self.full_precision, passes):
            result = batch.images.clone()
            if self.loss == 'kl':
                with torch.no_grad():
                    # A CUDA graph writes its next output over this one.
                    batch.reference = batch.logits(result).clone()
            todo = torch.arange(len(result), device=result.device)
            if stop:
                todo = todo[~batch.fooled(result)]
            for restart in range(self.restarts):
                if not len(todo):
                    break
                part = batch if len(todo) == len(result) else batch[todo]
                found = self._ascend(part, self._start(part), stop)
                if restart > 0:
                    found = self._worse(part, result[todo], found)
                result[todo] = found
                if stop and restart + 1 < self.restarts:
                    todo = todo[~part.fooled(found)]
        if os.environ.get('M2AT_MM_DEBUG'):
            assert bool(batch.ball.contains(result).all())
        return result

    def length_of_step(self, threat_model: ThreatModel) -> float:
        """A quarter of the radius, or ``step_size``."""
        if self.step_size is None:
            return self.step_factor * self.step * threat_model.eps
        return self.step_factor * parse_pixels(self.step_size, 'step_size')

    def _start(self, batch: Batch) -> Tensor:
        if not self.random_start:
            return batch.images
        if self.noise_std is None:
            return batch.ball.random_start(self.generator)
        noise = torch.empty_like(batch.images)
        noise.normal_(generator=self.generator)
        return batch.ball.project(batch.images + self.noise_std * noise)

    def _ascend(self, batch: Batch, images: Tensor, stop: bool) -> Tensor:
        """All steps; with ``stop``, misclassified images leave the batch."""
        size = self.length_of_step(batch.threat_model)
        result = images.clone()
        active = torch.arange(len(result), device=result.device)
        for _ in range(self.steps):
            logits, gradient = batch.gradient(LOSSES[self.loss], images)
            if stop:
                fooled = predicted_labels(logits) != batch.labels
                # Asked together, as the host waits for a GPU to answer.
                both = torch.stack([gradient.isfinite().all(), fooled.any()])
                finite, some = both.tolist()
                if not finite:
                    raise FloatingPointError(
                        'the gradient of the images is not finite: the attack '
                        'would fail and the accuracy under it mean nothing. '
                        'Look for overflowing logits, e.g. in half precision'
                    )
                if some:
                    active, batch = active[~fooled], batch[~fooled]
                    images, gradient = images[~fooled], gradient[~fooled]
                    if not len(active):
                        break
            images = batch.ball.step(images, gradient, size)
            if stop:
                result[active] = images
        return result if stop else images

    @torch.no_grad()
    def _worse(self, batch: Batch, first: Tensor, second: Tensor) -> Tensor:
        """Per image the misclassified one, else the one of higher loss."""
        fooled, losses = [], []
        for images in (first, second):
            logits = batch.logits(images)
            fooled.append(predicted_labels(logits) != batch.labels)
            losses.append(LOSSES[self.loss](logits, batch.reference))
        equal, higher = fooled[0] == fooled[1], losses[1] > losses[0]
        take_second = torch.where(equal, higher, fooled[1])
        return torch.where(take_second.view(-1, 1, 1, 1), second, first)


def pgd(
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    threat_model: ThreatModel,
    *,
    stop_when_fooled: bool = False,
    check_range: bool = True,
    generator: torch.Generator | None = None,
    **settings: Any,
) -> Tensor:
    """Adversarial images by projected gradient ascent (arXiv 1706.06083).

    The ``settings`` are those of :class:`PGD`, all else is as of
    :meth:`Attack.__call__`. Random starts are drawn by ``generator``.

    Raises:
        ValueError: ``stop_when_fooled`` is given with batch statistics.
    """
    attack = PGD(**settings)
    attack.generator = generator
    if stop_when_fooled and attack.bn_mode != 'eval':
        raise ValueError(
            "stop_when_fooled=True needs bn_mode='eval', but got "
            f'{attack.bn_mode!r}: with batch statistics the images left would '
            'change'
        )
    options = dict(stop_when_fooled=stop_when_fooled, check_range=check_range)
    return attack(model, images, target, threat_model, **options)


@TASK_UTILS.register_module()
class FGSM(PGD):
    """One step, of a length in radii, above 0 (arXiv 1412.6572).

    With ``random_start=True, step=1.25`` it is FGSM-RS, the train attack of
    Fast-AT (arXiv 2001.03994). Other settings are those of :class:`PGD`.
    """

    def __init__(
        self,
        loss: str = 'ce',
        random_start: bool = False,
        step: float = 1.0,
        bn_mode: str = 'eval',
        full_precision: bool = False,
    ) -> None:
        check_number('step', step, above=0)
        self.step = step
        super().__init__(1, None, loss, random_start, bn_mode=bn_mode)
        self.full_precision = full_precision


@TASK_UTILS.register_module()
@dataclass(eq=False)
class NFGSM(Attack):
    """The train attack of N-FGSM (arXiv 2202.01181), for linf alone.

    With n ~ U(-k*eps, k*eps), k ``noise`` and alpha ``step``, in radii::

        x' = clip(x + n + alpha*sign(grad CE(f(x + n), y)))

    Its images leave the ball by definition, up to k + alpha radii, but not
    [0, 1]. Other settings are those of :class:`PGD`.
    """

    noise: float = 2.0
    step: float = 1.0
    bn_mode: str = 'eval'
    full_precision: bool = False

    def __post_init__(self) -> None:
        check_number('noise', self.noise, least=0)
        check_number('step', self.step, above=0)
        check_choice('bn_mode', self.bn_mode, BN_MODES)

    def perturb(self, batch: Batch) -> Tensor:
        """See :class:`Attack`."""
        if batch.threat_model.norm != 'linf':
            raise ValueError(
                'N-FGSM is defined for linf, but the threat model is '
                f'{batch.threat_model}: use PGD'
            )
        eps = batch.threat_model.eps
        with batch.attack_mode(self.bn_mode, self.full_precision, passes=1):
            noise = torch.empty_like(batch.images).uniform_(-eps, eps)
            start = batch.images + self.noise * noise
            _, gradient = batch.gradient(cross_entropy, start)
        step = self.length_of_step(batch.threat_model) * gradient.sign()
        return (start + step).clamp(0, 1)

    def length_of_step(self, threat_model: ThreatModel) -> float:
        """``step`` radii."""
        return self.step_factor * self.step * threat_model.eps
