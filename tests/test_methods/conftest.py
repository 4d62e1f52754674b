"""A tiny network, wrapped by us and as mmpretrain builds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.structures import DataSample
from tiny import MEAN, STD, build_adversarial, build_stock
from torch import Tensor

Attack = Callable[..., Tensor]
Net = Callable[[Tensor], Tensor]


def _samples(target: Tensor) -> list[DataSample]:
    if target.ndim == 1:
        return [DataSample().set_gt_label(int(label)) for label in target]
    return [DataSample().set_gt_score(score) for score in target]


class MethodCheck:
    """Trains one step with a method and by plain PyTorch."""

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        self.images = torch.rand(6, 3, 32, 32, generator=rng)
        noise = torch.rand(self.images.shape, generator=rng) - 0.5
        self.adversarial = (self.images + noise / 8).clamp(0, 1)
        self.labels = torch.tensor([0, 9, 3, 3, 7, 1])
        scores = torch.rand(6, 10, generator=rng) + 3 * F.one_hot(self.labels)
        self.scores = scores / scores.sum(1, keepdim=True)

    def step(
        self, method: str, attack: Attack, trained_on: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        """Check a method that is the cross-entropy on some images.

        Args:
            method (str): The method's class.
            attack (Callable): Stands in for the train attack.
            trained_on (Tensor): The images that the method should train on.
            target (Tensor): Labels or probabilities.
        """
        cfg = dict(type=f'm2at_mm.{method}')
        seen: list[Tensor] = []

        def reference(net: Net) -> Tensor:
            logits = net(trained_on)
            seen.append(logits)
            return F.cross_entropy(logits, target)

        losses = self.compare(cfg, attack, target, reference)
        right = seen[0].argmax(1) == self.labels
        accuracy = losses['adversarial_accuracy'].item()
        assert accuracy == pytest.approx(100 * right.float().mean().item())
        assert losses.keys() == {'loss', 'kept_share', 'adversarial_accuracy'}
        return losses

    def compare(
        self,
        method: dict[str, Any],
        attack: Attack,
        target: Tensor,
        reference: Callable[[Net], Tensor],
        **settings: Any,
    ) -> dict[str, Tensor]:
        """Check loss and gradients of a step; return its log.

        Args:
            method (dict): Config.
            attack (Callable): Stands in for the train attack.
            target (Tensor): Labels or probabilities.
            reference (Callable): From a network, which maps images in [0, 1]
                to logits, to the published loss, in plain PyTorch.
            **settings: More of the adversarial classifier's config.
        """
        ours = build_adversarial(method=method, **settings).train()
        stock = build_stock().train()
        stock.load_state_dict(ours.state_dict())
        ours.train_attack = attack
        losses = ours(self.images, _samples(target), mode='loss')
        total = sum(v for k, v in losses.items() if 'loss' in k)
        total.backward()

        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (MEAN, STD))
        loss = reference(
            lambda images: stock((images * 255 - mean) / std, mode='tensor')
        )
        loss.backward()

        assert abs(total - loss) < 1e-5
        gradients: list[tuple[Tensor | None, Tensor | None]] = [
            (parameter.grad, other.grad)
            for parameter, other in zip(ours.parameters(), stock.parameters())
        ]
        assert len(gradients) > 60
        for own, expected in gradients:
            assert own is not None and expected is not None
            assert (own - expected).abs().max() < 1e-5
        assert any(own.abs().max() > 1e-3 for own, _ in gradients)
        return losses


@pytest.fixture
def check() -> MethodCheck:
    return MethodCheck()
