"""Attacks as settings that a config gives."""

from __future__ import annotations

from typing import Any, Optional

from torch import Tensor, nn

from m2at_mm.attacks.pgd import check_settings, pgd
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
        restarts (int): Runs, of which each image keeps the worst. Defaults
            to 1.
        bn_mode (str): ``'eval'``, ``'batch'`` or ``'train'``, see
            :func:`attack_mode`. Defaults to ``'eval'``.

    Raises:
        ValueError: A setting is out of its range.

    Example:
        >>> train_attack = dict(
        ...     type='m2at_mm.PGD', steps=10, step_size='2/255')
    """

    def __init__(
        self,
        steps: int = 10,
        step_size: Optional[Pixels] = None,
        loss: str = 'ce',
        random_start: bool = True,
        restarts: int = 1,
        bn_mode: str = 'eval',
    ) -> None:
        check_settings(
            ThreatModel(),
            steps,
            step_size,
            loss,
            random_start,
            restarts,
            bn_mode,
        )
        self.steps = steps
        self.step_size = step_size
        self.loss = loss
        self.random_start = random_start
        self.restarts = restarts
        self.bn_mode = bn_mode

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        target: Tensor,
        threat_model: ThreatModel,
        stop_when_fooled: bool = False,
    ) -> Tensor:
        """Attack ``images``; arguments and result as in :func:`pgd`."""
        return pgd(
            model,
            images,
            target,
            threat_model,
            stop_when_fooled=stop_when_fooled and self.bn_mode == 'eval',
            **self._settings(threat_model),
        )

    def _settings(self, threat_model: ThreatModel) -> dict[str, Any]:
        """Keyword arguments of :func:`pgd`."""
        return dict(
            steps=self.steps,
            step_size=self.step_size,
            loss=self.loss,
            random_start=self.random_start,
            restarts=self.restarts,
            bn_mode=self.bn_mode,
        )


@TASK_UTILS.register_module()
class FGSM(PGD):
    """One step as long as the radius, from the clean image.

    The fast gradient sign method of arXiv 1412.6572 under linf.

    Args:
        loss (str): ``'ce'`` or ``'margin'``. Defaults to ``'ce'``.
        bn_mode (str): See :func:`attack_mode`. Defaults to ``'eval'``.
    """

    def __init__(self, loss: str = 'ce', bn_mode: str = 'eval') -> None:
        if loss == 'kl':
            raise ValueError(
                "loss='kl' has no gradient at the clean image, where FGSM "
                "starts: choose 'ce' or 'margin'"
            )
        super().__init__(
            steps=1, loss=loss, random_start=False, bn_mode=bn_mode
        )

    def _settings(self, threat_model: ThreatModel) -> dict[str, Any]:
        settings = super()._settings(threat_model)
        return dict(settings, step_size=threat_model.eps)
