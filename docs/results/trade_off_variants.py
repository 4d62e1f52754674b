"""What M2AT is taken apart into, for the plan trade_off_parts.py."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from m2at_mm.methods import M2AT, MixRatios
from m2at_mm.methods.base import BoundAttack, Model, TrainingBatch
from m2at_mm.registry import TASK_UTILS


@TASK_UTILS.register_module()
class RandomShare(M2AT):
    """Each image keeps a random share of its whole perturbation, unmasked.

    Shares and labels have M2AT's distribution: the share is the mean of the
    keep map that M2AT would have drawn.
    """

    def draw(self, images: Tensor) -> MixRatios:
        """A mask of ones, with the mean of M2AT's keep map as ratio."""
        mask, ratio, partner = super().draw(images)
        area = mask.mean((1, 2, 3))
        share = ratio * area + (1 - ratio) * (1 - area)
        return MixRatios(torch.ones_like(mask), share, partner)


@TASK_UTILS.register_module()
class ConstantShare(M2AT):
    """Every image keeps half of its perturbation, which M2AT keeps on
    average."""

    def draw(self, images: Tensor) -> MixRatios:
        """A mask of ones, with a ratio of one half."""
        mask, ratio, partner = super().draw(images)
        half = torch.full_like(ratio, 0.5)
        return MixRatios(torch.ones_like(mask), half, partner)


@TASK_UTILS.register_module()
class MaskedAttack(M2AT):
    """In each step of the attack the network sees the perturbation under a
    mask and a ratio of their own."""

    def training_batch(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> TrainingBatch:
        """See :meth:`Method.training_batch`."""

        def masked(network: Any, clean: Tensor, labels: Tensor) -> Tensor:
            return attack(_Masked(network, clean, self), clean, labels)

        return super().training_batch(model, masked, images, target)


class _Masked(nn.Module):
    """A network that sees but a part of the difference to clean images."""

    def __init__(self, network: Any, clean: Tensor, method: M2AT) -> None:
        super().__init__()
        self.network, self.clean, self.method = network, clean, method

    def forward(self, images: Tensor) -> Tensor:
        mask, ratio, _ = self.method.draw(images)
        lam = ratio.view(-1, 1, 1, 1)
        keep = lam * mask + (1 - lam) * (1 - mask)
        seen = self.clean + self.method.scale * keep * (images - self.clean)
        logits: Tensor = self.network(seen.clamp(0, 1))
        return logits


class Bfloat16OptimWrapper(OptimWrapper):
    """The training step in bfloat16 on a CPU, which MMEngine's
    AmpOptimWrapper refuses."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast around the attack and the loss."""
        with torch.autocast('cpu', dtype=torch.bfloat16):
            with super().optim_context(model):
                yield
