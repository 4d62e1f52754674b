"""Adversarial images of another network."""

from typing import Any

from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from m2at_mm.attacks.base import Attack, Batch
from m2at_mm.registry import MODELS, TASK_UTILS


@TASK_UTILS.register_module()
class Transfer(Attack):
    """Attacks a surrogate; the attacked model's gradients are not used.

    A model that falls to another network's adversarial images but not to its
    own gradients hides its gradients (arXiv 1802.00420).

    Args:
        surrogate (dict): Config of an ``AdversarialClassifier``.
        checkpoint (str): File with its weights.
        attack (dict, optional): The attack on it. Defaults to PGD-20.
    """

    black_box = True

    def __init__(
        self,
        surrogate: dict[str, Any],
        checkpoint: str,
        attack: dict[str, Any] | None = None,
    ) -> None:
        self.surrogate: nn.Module = MODELS.build(surrogate)
        try:
            load_checkpoint(self.surrogate, checkpoint, 'cpu', strict=True)
        except RuntimeError as error:
            raise ValueError(
                f'checkpoint={checkpoint!r} does not fit the surrogate: give '
                f'the config that belongs to it. {error}'
            ) from error
        self.surrogate.eval()
        attack = attack or dict(type='m2at_mm.PGD', steps=20)
        self.attack: Attack = TASK_UTILS.build(attack)

    def perturb(self, batch: Batch) -> Tensor:
        """See :class:`Attack`."""
        # Not stopped: what fools the surrogate need not yet fool the model.
        surrogate = self.surrogate.to(batch.images.device)
        given = batch.images, batch.target, batch.threat_model
        return self.attack(surrogate, *given, check_range=batch.check_values)
