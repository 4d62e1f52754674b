"""Attacks as settings that a config gives."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from m2at_mm.attacks.context import attack_mode, check_bn_mode
from m2at_mm.attacks.folding import folding_pays
from m2at_mm.attacks.logits import full, logits_of
from m2at_mm.attacks.losses import as_target, check_classes, cross_entropy
from m2at_mm.attacks.pgd import check_settings, parse_step_size, pgd
from m2at_mm.attacks.threat_model import Pixels, ThreatModel
from m2at_mm.registry import TASK_UTILS


@TASK_UTILS.register_module()
class PGD:
    """Settings of :func:`pgd` for a config.

    Args:
        steps (int): Gradient steps. Defaults to 10.
        step_size (str | float, optional): Length of a step, like
            ``'2/255'``. Defaults to None, a quarter of the radius.
        loss (str): ``'ce'``, ``'margin'`` or ``'kl'``. Defaults to ``'ce'``.
        random_start (bool): Start at a random point. Defaults to True.
        noise_std (float, optional): Start at Gaussian noise of this standard
            deviation. Defaults to None, a start drawn from the ball.
        restarts (int): Runs, of which each image keeps the worst. Defaults
            to 1.
        bn_mode (str): ``'eval'``, ``'batch'`` or ``'train'``, see
            :func:`attack_mode`. Defaults to ``'eval'``.
        full_precision (bool): Attack in float32 also under autocast. Defaults
            to False.
        compile_mode (str, optional): ``'default'``, ``'reduce-overhead'`` or
            ``'max-autotune'``, see :func:`pgd`. Defaults to None.

    Raises:
        ValueError: A setting is out of its range.

    Example:
        >>> train_attack = dict(
        ...     type='m2at_mm.PGD', steps=10, step_size='2/255')
    """

    #: Factor on each step, whatever sets its length; lowered by a guard.
    step_factor: float = 1.0

    def __init__(
        self,
        steps: int = 10,
        step_size: Pixels | None = None,
        loss: str = 'ce',
        random_start: bool = True,
        noise_std: float | None = None,
        restarts: int = 1,
        bn_mode: str = 'eval',
        full_precision: bool = False,
        compile_mode: str | None = None,
    ) -> None:
        check_settings(
            ThreatModel(),
            steps,
            step_size,
            loss,
            random_start,
            noise_std,
            restarts,
            bn_mode,
            compile_mode,
        )
        self.steps = steps
        self.step_size = step_size
        self.loss = loss
        self.random_start = random_start
        self.noise_std = noise_std
        self.restarts = restarts
        self.bn_mode = bn_mode
        self.full_precision = full_precision
        self.compile_mode = compile_mode

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        target: Tensor,
        threat_model: ThreatModel,
        stop_when_fooled: bool = False,
        check_range: bool = True,
    ) -> Tensor:
        """Attack a batch by :func:`pgd`.

        Args:
            model (nn.Module): Maps images in [0, 1], shape (N, C, H, W), to
                logits of shape (N, K).
            images (Tensor): Clean images, RGB in [0, 1], shape (N, C, H, W).
            target (Tensor): Labels, int64 of shape (N, ), or probabilities of
                shape (N, K).
            threat_model (ThreatModel): Norm and radius.
            stop_when_fooled (bool): Whether an image that is misclassified is
                done; only with ``bn_mode='eval'``. Defaults to False.
            check_range (bool): Check that the images are in [0, 1], for which
                the host waits for a GPU. Defaults to True.

        Returns:
            Tensor: Images inside ball and box exactly, shape (N, C, H, W),
            detached.
        """
        return pgd(
            model,
            images,
            target,
            threat_model,
            stop_when_fooled=stop_when_fooled and self.bn_mode == 'eval',
            check_range=check_range,
            **self._settings(threat_model),
        )

    def length_of_step(self, threat_model: ThreatModel) -> float:
        """What a step is long, in the norm and on the scale of [0, 1].

        Args:
            threat_model (ThreatModel): Norm and radius.

        Returns:
            float: The step size.
        """
        return parse_step_size(
            self._settings(threat_model)['step_size'], threat_model
        )

    def _settings(self, threat_model: ThreatModel) -> dict[str, Any]:
        """Keyword arguments of :func:`pgd`."""
        size = self.step_size
        if self.step_factor != 1:
            length = parse_step_size(size, threat_model)
            size = _fraction(self.step_factor * length)
        return dict(
            steps=self.steps,
            step_size=size,
            loss=self.loss,
            random_start=self.random_start,
            noise_std=self.noise_std,
            restarts=self.restarts,
            bn_mode=self.bn_mode,
            full_precision=self.full_precision,
            compile_mode=self.compile_mode,
        )


@TASK_UTILS.register_module()
class FGSM(PGD):
    """One step, of a length in radii.

    The fast gradient sign method of arXiv 1412.6572 under linf. With
    ``random_start=True, step=1.25`` it is FGSM-RS, the train attack of Fast-AT
    (arXiv 2001.03994).

    Args:
        loss (str): ``'ce'`` or ``'margin'``. Defaults to ``'ce'``.
        random_start (bool): Start at a point drawn from the ball instead of
            the clean image. Defaults to False.
        step (float): Length of the step in radii, above 0. Defaults to 1.0.
        bn_mode (str): See :func:`attack_mode`. Defaults to ``'eval'``.
        full_precision (bool): Attack in float32 also under autocast. Defaults
            to False.

    Raises:
        ValueError: A setting is out of its range.
    """

    def __init__(
        self,
        loss: str = 'ce',
        random_start: bool = False,
        step: float = 1.0,
        bn_mode: str = 'eval',
        full_precision: bool = False,
    ) -> None:
        if loss == 'kl':
            raise ValueError(
                "loss='kl' has no gradient at the clean image, where FGSM "
                "starts: choose 'ce' or 'margin'"
            )
        _check_positive('step', step)
        super().__init__(
            steps=1,
            loss=loss,
            random_start=random_start,
            bn_mode=bn_mode,
            full_precision=full_precision,
        )
        self.step = step

    def _settings(self, threat_model: ThreatModel) -> dict[str, Any]:
        settings = super()._settings(threat_model)
        size = _fraction(self.step_factor * self.step * threat_model.eps)
        return dict(settings, step_size=size)


@TASK_UTILS.register_module()
class NFGSM:
    """The train attack of N-FGSM: a step from strong noise, not projected.

    De Jorge et al., "Make Some Noise", arXiv 2202.01181, with
    n ~ U(-k*eps, k*eps)::

        x' = clip(x + n + alpha*sign(grad CE(f(x + n), y)))

    Its images leave the ball by definition, up to k + alpha radii, but not
    [0, 1]: it is for training, not for measuring. Only for linf.

    Args:
        noise (float): k, in radii, not negative. Defaults to 2.0.
        step (float): alpha, in radii, above 0. Defaults to 1.0.
        bn_mode (str): See :func:`attack_mode`. Defaults to ``'eval'``.
        full_precision (bool): Attack in float32 also under autocast. Defaults
            to False.

    Raises:
        ValueError: A setting is out of its range.
    """

    #: Factor on the step, lowered by a guard.
    step_factor: float = 1.0

    def __init__(
        self,
        noise: float = 2.0,
        step: float = 1.0,
        bn_mode: str = 'eval',
        full_precision: bool = False,
    ) -> None:
        if not 0 <= noise < math.inf:
            raise ValueError(f'noise={noise!r} must be finite and at least 0')
        _check_positive('step', step)
        check_bn_mode(bn_mode)
        self.noise = noise
        self.step = step
        self.bn_mode = bn_mode
        self.full_precision = full_precision

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        target: Tensor,
        threat_model: ThreatModel,
        stop_when_fooled: bool = False,
    ) -> Tensor:
        """Attack a batch.

        Args:
            model (nn.Module): Maps images in [0, 1], shape (N, C, H, W), to
                logits of shape (N, K).
            images (Tensor): Clean images, RGB in [0, 1], shape (N, C, H, W).
            target (Tensor): Labels, int64 of shape (N, ), or probabilities of
                shape (N, K).
            threat_model (ThreatModel): The radius; its norm must be linf.
            stop_when_fooled (bool): Not used. Defaults to False.

        Returns:
            Tensor: In [0, 1], shape (N, C, H, W), detached.

        Raises:
            TypeError: The target has a wrong shape or type.
            ValueError: The threat model is not linf, or the target is not of
                the model's classes.
        """
        if threat_model.norm != 'linf':
            raise ValueError(
                'N-FGSM is defined for linf, but the threat model is '
                f'{threat_model}: use PGD'
            )
        target = as_target(target, len(images), check_values=False)
        eps, images = threat_model.eps, full(images.detach())
        noise = torch.empty_like(images).uniform_(-eps, eps)
        traced = images if folding_pays(images.device, 1) else None
        with attack_mode(model, self.bn_mode, traced, self.full_precision):
            start = images + self.noise * noise
            start.requires_grad_(True)
            logits = logits_of(model, start)
            check_classes(target, logits.shape[1], check_values=False)
            loss = cross_entropy(full(logits), target).sum()
            (gradient,) = torch.autograd.grad(loss, start)
        step = self.step_factor * self.step * eps * gradient.sign()
        return (start.detach() + step).clamp(0, 1)


def _fraction(size: float) -> str:
    """A size in a notation that leaves no doubt of its unit."""
    return f'{size * 255!r}/255'


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f'{name}={value!r} must be finite and above 0')
