"""Adversarial images of another network."""

from __future__ import annotations

from typing import Any

from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from m2at_mm.attacks.threat_model import ThreatModel
from m2at_mm.registry import MODELS, TASK_UTILS


@TASK_UTILS.register_module()
class Transfer:
    """Attacks a surrogate; the attacked model's gradients are not used.

    A model that falls to another network's adversarial images but not to its
    own gradients hides its gradients (arXiv 1802.00420).

    Args:
        surrogate (dict): Config of an ``AdversarialClassifier``.
        checkpoint (str): File with the surrogate's weights.
        attack (dict, optional): What the surrogate is attacked by. Defaults
            to None, ``dict(type='m2at_mm.PGD', steps=20)``.

    Raises:
        ValueError: The checkpoint does not fit the surrogate.

    Example:
        >>> eval_attacks = dict(transfer=dict(
        ...     type='m2at_mm.Transfer', surrogate=dict(
        ...         type='m2at_mm.AdversarialClassifier', ...),
        ...     checkpoint='surrogate.pth'))
    """

    def __init__(
        self,
        surrogate: dict[str, Any],
        checkpoint: str,
        attack: dict[str, Any] | None = None,
    ) -> None:
        self.surrogate: nn.Module = MODELS.build(surrogate)
        try:
            load_checkpoint(
                self.surrogate, checkpoint, map_location='cpu', strict=True
            )
        except RuntimeError as error:
            raise ValueError(
                f'checkpoint={checkpoint!r} does not fit the surrogate: give '
                f'the config that belongs to it. {error}'
            ) from error
        self.surrogate.eval()
        self.attack = TASK_UTILS.build(
            attack or dict(type='m2at_mm.PGD', steps=20)
        )

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        target: Tensor,
        threat_model: ThreatModel,
        stop_when_fooled: bool = False,
    ) -> Tensor:
        """Attack the surrogate.

        Args:
            model (nn.Module): The attacked model, not used.
            images (Tensor): Clean images, RGB in [0, 1], shape (N, C, H, W).
            target (Tensor): Labels, int64 of shape (N, ).
            threat_model (ThreatModel): Norm and radius.
            stop_when_fooled (bool): Not used: an image that fools the
                surrogate need not yet fool the model. Defaults to False.

        Returns:
            Tensor: What the surrogate's attack gives, in [0, 1], shape
            (N, C, H, W).
        """
        self.surrogate.to(images.device)
        adversarial: Tensor = self.attack(
            self.surrogate, images, target, threat_model
        )
        return adversarial
