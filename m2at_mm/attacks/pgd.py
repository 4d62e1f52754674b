"""Projected gradient descent, as a function of tensors."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from m2at_mm.attacks.compilation import COMPILE_MODES, compiled
from m2at_mm.attacks.context import attack_mode, check_bn_mode
from m2at_mm.attacks.folding import folding_pays
from m2at_mm.attacks.logits import (
    full,
    logits_of,
    predicted_labels,
)
from m2at_mm.attacks.losses import (
    LOSSES,
    AttackLoss,
    as_target,
    check_classes,
    hard_labels,
)
from m2at_mm.attacks.threat_model import (
    Pixels,
    ThreatModel,
    check_unit,
    parse_pixels,
)
from m2at_mm.checks import check_count


def pgd(
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    threat_model: ThreatModel,
    *,
    steps: int = 10,
    step_size: Pixels | None = None,
    loss: str = 'ce',
    random_start: bool = True,
    noise_std: float | None = None,
    restarts: int = 1,
    stop_when_fooled: bool = False,
    bn_mode: str = 'eval',
    full_precision: bool = False,
    compile_mode: str | None = None,
    check_range: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Adversarial images by projected gradient ascent (arXiv 1706.06083).

    Args:
        model (nn.Module): Maps images in [0, 1], shape (N, C, H, W), to
            logits of shape (N, K). Normalisation is its own first layer.
        images (Tensor): Clean images, RGB in [0, 1], shape (N, C, H, W).
        target (Tensor): Labels, int64 of shape (N, ), or probabilities of
            shape (N, K). The attack moves away from them.
        threat_model (ThreatModel): Norm and radius.
        steps (int): Gradient steps, at least 1. Defaults to 10.
        step_size (str | float, optional): Length of a step in the norm, on
            the scale of images in [0, 1]. Defaults to None, a quarter of the
            radius: 2/255 at 8/255.
        loss (str): What is raised: ``'ce'``, the cross-entropy; ``'margin'``,
            the best wrong logit minus the right one; or ``'kl'``, the
            divergence from the clean images' probabilities. Defaults to
            ``'ce'``.
        random_start (bool): Start at a random point of the ball instead of
            the clean image. Defaults to True.
        noise_std (float, optional): Start at Gaussian noise of this standard
            deviation around the clean image, as TRADES does with 0.001.
            Defaults to None, a start drawn uniformly from the ball.
        restarts (int): Runs, each from a start of its own. Per image the
            worst result is kept: one that is misclassified, and among equals
            the one with the higher loss. Defaults to 1.
        stop_when_fooled (bool): For evaluation: an image that is
            misclassified, also the clean one, is done and leaves the batch.
            Needs ``bn_mode='eval'``, where images don't influence each
            other. Defaults to False.
        bn_mode (str): See :func:`attack_mode`. Defaults to ``'eval'``.
        full_precision (bool): Under autocast, attack in float32 all the same.
            Defaults to False: as fast as autocast is. The loss is summed over
            the batch, not averaged, so float16 doesn't lose its gradients.
        compile_mode (str, optional): Compile the attacked function with
            :func:`torch.compile` in this mode: ``'default'``,
            ``'reduce-overhead'``, which on a GPU replays CUDA graphs, or
            ``'max-autotune'``. The first attack takes a minute or so longer.
            Defaults to None: nothing is compiled, and convolutions do the
            work of batch norms, see :func:`folded_norms`.
        check_range (bool): Check that the images are in [0, 1], and the
            values of the target, for which the host waits for a GPU. Defaults
            to True.
        generator (torch.Generator, optional): Source of the random starts.
            Defaults to None, PyTorch's own.

    Returns:
        Tensor: Images inside ball and box exactly, shape (N, C, H, W),
        detached; of float32, or of float64 if the given ones are. A model of
        another precision is given copies in its own.

    Raises:
        ValueError: A setting is out of its range, the images are not in
            [0, 1], or the target has other classes than the model or rows
            that are no probabilities.
        TypeError: The images are not floats, the target has a wrong shape or
            type, or the model gives no logits.
        FloatingPointError: With ``stop_when_fooled``, an image's gradient is
            not finite.
    """
    size = check_settings(
        threat_model,
        steps,
        step_size,
        loss,
        random_start,
        noise_std,
        restarts,
        bn_mode,
        compile_mode,
    )
    if stop_when_fooled and bn_mode != 'eval':
        raise ValueError(
            f"stop_when_fooled=True needs bn_mode='eval', but got {bn_mode!r}:"
            ' with batch statistics the images left would change'
        )
    _check_images(images, check_range)
    target = as_target(target, len(images), check_range)
    images = full(images)
    folds = folding_pays(images.device, steps * restarts)
    traced = None
    if folds and not compile_mode:
        traced = images
    with attack_mode(model, bn_mode, traced, full_precision):
        attacked = compiled(model, compile_mode) if compile_mode else model
        batch = _Batch.of(
            attacked, images, target, threat_model, loss, check_range
        )
        result = batch.images.clone()
        todo = torch.arange(len(result), device=result.device)
        if stop_when_fooled:
            todo = todo[~batch.fooled(result)]
        for restart in range(restarts):
            if not len(todo):
                break
            part = batch if len(todo) == len(result) else batch.select(todo)
            start = part.images
            if random_start:
                start = part.random_start(noise_std, generator)
            if stop_when_fooled:
                found = _ascend_until_fooled(part, start, steps, size)
            else:
                found = _ascend(part, start, steps, size)
            if restart > 0:
                found = part.worse(result[todo], found)
            result[todo] = found
            if stop_when_fooled and restart + 1 < restarts:
                todo = todo[~part.fooled(found)]
    if os.environ.get('M2AT_MM_DEBUG'):
        assert bool(batch.ball.contains(result).all())
    return result


@dataclass
class _Batch:
    """The images under attack and what the attack needs to know of them."""

    model: Callable[[Tensor], Tensor]
    images: Tensor
    labels: Tensor
    reference: Tensor  # what the loss compares the logits with
    loss: AttackLoss
    threat_model: ThreatModel
    # Until the model has told its number of classes.
    unchecked: Tensor | None = None
    check_values: bool = True

    @classmethod
    def of(
        cls,
        model: Callable[[Tensor], Tensor],
        images: Tensor,
        target: Tensor,
        threat_model: ThreatModel,
        loss: str,
        check_values: bool,
    ) -> _Batch:
        # Copies are no inference tensors, which autograd would not take.
        images, target = images.detach().clone(), target.detach().clone()
        batch = cls(
            model,
            images,
            hard_labels(target),
            target,
            LOSSES[loss],
            threat_model,
            target,
            check_values,
        )
        if loss == 'kl':
            with torch.no_grad():
                # A CUDA graph writes its next output over this one.
                batch.reference = batch.logits(images).clone()
        return batch

    def __post_init__(self) -> None:
        self.ball = self.threat_model.ball(self.images)

    def select(self, index: Tensor) -> _Batch:
        """The part of the batch at ``index``, a mask or positions."""
        return replace(
            self,
            images=self.images[index],
            labels=self.labels[index],
            reference=self.reference[index],
        )

    def random_start(
        self, noise_std: float | None, generator: torch.Generator | None
    ) -> Tensor:
        """A start in the ball, uniform or near the clean images."""
        if noise_std is None:
            return self.ball.random_start(generator)
        noise = torch.empty_like(self.images).normal_(generator=generator)
        return self.ball.project(self.images + noise_std * noise)

    def logits(self, images: Tensor) -> Tensor:
        """Logits of images of this batch, shape (N, K)."""
        logits = _logits(self.model, images)
        if self.unchecked is not None:
            check_classes(self.unchecked, logits.shape[1], self.check_values)
            self.unchecked = None
        return logits

    def gradient(self, adversarial: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, detached, and the loss's input gradient."""
        adversarial = adversarial.detach().requires_grad_(True)
        logits = self.logits(adversarial)
        loss = self.loss(logits, self.reference).sum()
        gradient = _input_gradient(loss, adversarial)
        return logits.detach(), gradient

    @torch.no_grad()
    def fooled(self, adversarial: Tensor) -> Tensor:
        """Which images are misclassified, bool of shape (N, )."""
        # Of logits that overflow the gradient is to tell: see below.
        return self.logits(adversarial).argmax(1) != self.labels

    @torch.no_grad()
    def worse(self, first: Tensor, second: Tensor) -> Tensor:
        """Per image the misclassified one, else the one of higher loss."""
        fooled, losses = [], []
        for adversarial in (first, second):
            logits = self.logits(adversarial)
            fooled.append(predicted_labels(logits) != self.labels)
            losses.append(self.loss(logits, self.reference))
        take_second = torch.where(
            fooled[0] == fooled[1], losses[1] > losses[0], fooled[1]
        )
        return torch.where(take_second.view(-1, 1, 1, 1), second, first)


def _ascend(
    batch: _Batch, adversarial: Tensor, steps: int, size: float
) -> Tensor:
    for _ in range(steps):
        _, gradient = batch.gradient(adversarial)
        adversarial = batch.ball.step(adversarial, gradient, size)
    return adversarial


def _ascend_until_fooled(
    batch: _Batch, adversarial: Tensor, steps: int, size: float
) -> Tensor:
    result = adversarial.clone()
    active = torch.arange(len(result), device=result.device)
    for _ in range(steps):
        logits, gradient = batch.gradient(adversarial)
        fooled = predicted_labels(logits) != batch.labels
        # Asked together, as the host waits for a GPU to answer.
        finite, some = torch.stack(
            [gradient.isfinite().all(), fooled.any()]
        ).tolist()
        if not finite:
            raise FloatingPointError(
                'the gradient of the images is not finite: the attack would '
                'fail and the accuracy under it mean nothing. Look for '
                'overflowing logits, e.g. in half precision'
            )
        if some:
            active, batch = active[~fooled], batch.select(~fooled)
            adversarial, gradient = adversarial[~fooled], gradient[~fooled]
            if not len(active):
                break
        adversarial = batch.ball.step(adversarial, gradient, size)
        result[active] = adversarial
    return result


def _logits(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    logits = logits_of(model, images)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise TypeError(
            'an attacked model must return logits of shape (N, K), but '
            f'{type(_module(model)).__name__} returned {_describe(logits)}'
        )
    return full(logits)


def _module(model: Callable[[Tensor], Tensor]) -> nn.Module:
    if isinstance(model, functools.partial):  # see compiled()
        (model,) = model.args
    assert isinstance(model, nn.Module)
    return model


def _describe(output: object) -> str:
    if isinstance(output, Tensor):
        return f'a tensor of shape {tuple(output.shape)}'
    return f'a {type(output).__name__}'


def _input_gradient(loss: Tensor, images: Tensor) -> Tensor:
    try:
        (gradient,) = torch.autograd.grad(loss, images)
    except RuntimeError as error:
        if 'checkpoint' not in str(error):
            raise
        raise RuntimeError(
            'an attack needs the gradient of the images, which reentrant '
            'activation checkpointing cannot give: call '
            'torch.utils.checkpoint.checkpoint by that name, so that it can '
            'be replaced, or with use_reentrant=False'
        ) from error
    return gradient


def check_settings(
    threat_model: ThreatModel,
    steps: int,
    step_size: Pixels | None,
    loss: str,
    random_start: bool,
    noise_std: float | None,
    restarts: int,
    bn_mode: str,
    compile_mode: str | None = None,
) -> float:
    """Check what a user can get wrong and return the step size."""
    check_count('steps', steps)
    check_count('restarts', restarts)
    if loss not in LOSSES:
        raise ValueError(
            f'loss={loss!r} is unknown: choose one of {sorted(LOSSES)}'
        )
    if loss == 'kl' and not random_start:
        raise ValueError(
            "loss='kl' has no gradient at the clean image: set "
            "random_start=True, or choose 'ce' or 'margin'"
        )
    if noise_std is not None:
        if not random_start:
            raise ValueError(
                f'noise_std={noise_std!r} is a random start: set '
                'random_start=True, or leave it out'
            )
        if not 0 < noise_std <= 1:
            raise ValueError(
                f'noise_std={noise_std!r} must be above 0 and at most 1, on '
                'the scale of images in [0, 1]'
            )
    check_bn_mode(bn_mode)
    if compile_mode not in (None, *COMPILE_MODES):
        raise ValueError(
            f'compile_mode={compile_mode!r} is unknown: choose one of '
            f'{list(COMPILE_MODES)}, or None'
        )
    return parse_step_size(step_size, threat_model)


def parse_step_size(
    step_size: Pixels | None, threat_model: ThreatModel
) -> float:
    """The length of a step, a quarter of the radius if none is given."""
    if step_size is None:
        return threat_model.eps / 4
    size = parse_pixels(step_size, 'step_size')
    check_unit(step_size, size, 'step_size', max(1.0, threat_model.eps))
    return size


def _check_images(images: Tensor, check_range: bool) -> None:
    if images.ndim != 4 or not images.is_floating_point():
        raise TypeError(
            'images must be floats of shape (N, C, H, W), but got '
            f'{images.dtype} of shape {tuple(images.shape)}'
        )
    if not check_range or not images.numel():
        return
    if not (0 <= images.min() and images.max() <= 1):
        raise ValueError(
            f'images must be in [0, 1], but are in [{images.min():g}, '
            f'{images.max():g}]: divide 0-255 values by 255, and let the '
            'model normalise, not the data'
        )
