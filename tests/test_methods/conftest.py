"""A step of a method against the published loss on a stock classifier."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import build_adversarial, build_stock
from torch import Tensor

from m2at_mm.structures import BatchLabels

Net = Callable[[Tensor], Tensor]


class MethodCheck:
    """A batch, an attack whose images are known, and the comparison."""

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        self.images = torch.rand(6, 3, 32, 32, generator=rng)
        noise = torch.rand(self.images.shape, generator=rng) - 0.5
        self.adversarial = (self.images + noise / 8).clamp(0, 1)
        self.both = self.images, self.adversarial
        self.labels = torch.tensor([0, 9, 3, 3, 7, 1])
        scores = torch.rand(6, 10, generator=rng) + 3 * F.one_hot(self.labels)
        self.scores = scores / scores.sum(1, keepdim=True)
        #: What the attack was given.
        self.calls: list[tuple[Any, ...]] = []

    def attack(self, *args: Any, **_: Any) -> Tensor:
        self.calls.append(args)
        return self.adversarial

    def compare(
        self, name: str, reference: Callable[[Net], Tensor], **settings: Any
    ) -> dict[str, Tensor]:
        """Check loss and gradients of a step; return its log.

        The reference maps a network, from images in [0, 1] to logits, to the
        published loss, in plain PyTorch. With ``soft`` the targets are the
        scores.
        """
        soft = settings.pop('soft', False)
        method = dict(settings, type=f'm2at_mm.{name}')
        ours = build_adversarial(method=method).train()
        stock = build_stock().train()
        stock.load_state_dict(ours.state_dict())
        ours.train_attack = self.attack
        targets = BatchLabels(self.labels, self.scores if soft else None)
        losses: dict[str, Tensor] = ours(self.images, targets, mode='loss')
        total = sum(v for k, v in losses.items() if 'loss' in k)
        total.backward()

        def net(images: Tensor) -> Tensor:
            data = stock.data_preprocessor
            return stock((images * 255 - data.mean) / data.std, mode='tensor')

        loss = reference(net)
        loss.backward()
        assert abs(total - loss) < 1e-5
        expected = [parameter.grad for parameter in stock.parameters()]
        for parameter, other in zip(ours.parameters(), expected):
            assert (parameter.grad - other).abs().max() < 1e-5
        assert max(other.abs().max() for other in expected) > 1e-3
        return losses


@pytest.fixture
def check() -> MethodCheck:
    return MethodCheck()
