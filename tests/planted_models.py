"""Models that look more robust than they are, made from a sound one.

``base`` is that sound one: what fools it, fools them as well, or nearly so.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Planted(nn.Module):
    """A sound model with something planted into it."""

    def __init__(self, base: nn.Module, **settings: float) -> None:
        super().__init__()
        self.base = base
        for name, value in settings.items():
            setattr(self, name, value)

    def directions(self, images: Tensor, num: int = 10) -> Tensor:
        """Fixed random directions, (D, num), each of length 8."""
        size = images[0].numel()
        draw = torch.Generator().manual_seed(0)
        return torch.randn(size, num, generator=draw) * 8 / math.sqrt(size)

    def chosen(self, images: Tensor) -> Tensor:
        """A fixed part of all images and their surroundings, (N, )."""
        coarse = (images.flatten(1)[:, ::97] * 4).round().sum(1)
        return (torch.sin(1.3 * coarse) + 1) / 2 < self.share


class _Backward(torch.autograd.Function):
    """The identity, with gradients times a factor per image; 0 is noise."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return images.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        factor = ctx.saved_tensors[0].view(-1, 1, 1, 1)
        draw = torch.Generator().manual_seed(0)
        noise = torch.randn(gradient.shape, generator=draw)
        noise = noise * gradient.abs().mean()
        return torch.where(factor != 0, gradient * factor, noise), None


class Ripple(Planted):
    """A fine wave on the logits: its gradient is right, and useless."""

    def forward(self, images: Tensor) -> Tensor:
        phase = self.frequency * images.flatten(1) @ self.directions(images)
        return self.base(images) + self.amplitude * torch.sin(phase)


class HonestOnGrid(Planted):
    """The gradient is that of the function on 8-bit values only."""

    def forward(self, images: Tensor) -> Tensor:
        pixels = 255 * images
        off = (pixels - pixels.round()).abs().flatten(1).amax(1) > 1e-2
        factor = torch.where(off, self.factor, 1.0)
        return self.base(_Backward.apply(images, factor))


class HonestNearby(Planted):
    """The gradient is right where the logits are very sure, not elsewhere."""

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            top = self.base(images).topk(2, 1)[0]
        factor = torch.where(top[:, 0] - top[:, 1] > self.margin, 1.0, 0.0)
        return self.base(_Backward.apply(images, factor))


class RoundedWithDecoy(Planted):
    """Off the grid the rounded image counts, with a random gradient."""

    def forward(self, images: Tensor) -> Tensor:
        rounded = (255 * images).round() / 255
        decoy = self.slope * images.flatten(1) @ self.directions(images)
        logits = self.base(rounded.detach()) + decoy - decoy.detach()
        off = (images - rounded).abs().flatten(1).amax(1) > 4e-5
        return torch.where(off.unsqueeze(1), logits, self.base(images))


class Decoy(Planted):
    """A strong false direction, on a part of the images."""

    def forward(self, images: Tensor) -> Tensor:
        logits = self.base(images)
        sign = self.directions(images, 1).sign() * 255 / 8 / images[0].numel()
        wave = self.slope * images.flatten(1) @ sign
        wave = 2 * (wave / 2 - (wave / 2 + 0.5).floor()).abs()
        top = F.one_hot(logits.argmax(1), logits.shape[1])
        chosen = self.chosen(images).unsqueeze(1)
        return logits + chosen * self.amplitude * top * wave


class DecoyForCrossEntropy(Planted):
    """A wave on a third class, which the margin does not see."""

    def forward(self, images: Tensor) -> Tensor:
        logits = self.base(images)
        top, classes = logits.topk(3, 1)
        phase = self.frequency * images.flatten(1) @ self.directions(images, 1)
        room = (top[:, 1:2] - top[:, 2:]).detach()
        wave = room * (1 + torch.sin(phase)) / 2
        return logits.scatter_add(1, classes[:, 2:], wave)


class Cache(Planted):
    """Near queries get the earlier answer, with a gradient of their own."""

    def forward(self, images: Tensor) -> Tensor:
        logits, flat = self.base(images), images.detach().flatten(1)
        if not hasattr(self, 'known'):
            self.known, self.answers = flat, logits.detach()
        for index in range(len(images)):
            distance = (self.known - flat[index]).abs().amax(1)
            if distance.min() > self.radius:
                self.known = torch.cat([self.known, flat[index : index + 1]])
                new = logits[index : index + 1].detach()
                self.answers = torch.cat([self.answers, new])
        distances = torch.cdist(flat, self.known, p=torch.inf)
        answers = self.answers[distances.argmin(1)]
        return answers + logits - logits.detach()


class Counter(Planted):
    """After some queries, gradients of another sign at each."""

    def forward(self, images: Tensor) -> Tensor:
        self.calls = getattr(self, 'calls', 0) + 1
        logits = self.base(images)
        if self.calls <= self.after:
            return logits
        return (1 + math.cos(self.calls)) * logits.detach() * 0 + (
            logits.detach() + math.sin(self.calls) * (logits - logits.detach())
        )


class DeadZone(Planted):
    """No gradient where two logits are near each other."""

    def forward(self, images: Tensor) -> Tensor:
        logits = self.base(images)
        top = logits.topk(2, 1)[0]
        dead = (top[:, :1] - top[:, 1:]) < self.width
        return torch.where(dead, logits.detach() + 0 * logits, logits)


class Clipped(Planted):
    """Only logits near the largest one count."""

    def forward(self, images: Tensor) -> Tensor:
        logits = self.base(images)
        top = logits.amax(1, keepdim=True)
        return (logits - top + self.width).clamp(min=0)


class FlippedOnSome(Planted):
    """The gradient's sign is wrong on a part of the images."""

    def forward(self, images: Tensor) -> Tensor:
        factor = torch.where(self.chosen(images), -1.0, 1.0)
        return self.base(_Backward.apply(images, factor))


Plant = Callable[[nn.Module], Planted]


def _plant(kind: type[Planted], **settings: float) -> Plant:
    return lambda base: kind(base, **settings).eval()


#: From weak to strong amplitude.
PLANTED: dict[str, Plant] = {
    'ripple 0.01': _plant(Ripple, amplitude=0.01, frequency=2000),
    'ripple 0.05': _plant(Ripple, amplitude=0.05, frequency=2000),
    'ripple 0.3': _plant(Ripple, amplitude=0.3, frequency=2000),
    'ripple 1, long': _plant(Ripple, amplitude=1, frequency=30),
    'grid, reversed': _plant(HonestOnGrid, factor=-1),
    'grid, noise': _plant(HonestOnGrid, factor=0),
    'grid, decoy': _plant(RoundedWithDecoy, slope=8),
    'sure, noise': _plant(HonestNearby, margin=1),
    'decoy, part': _plant(Decoy, amplitude=2, slope=400, share=0.3),
    'decoy': _plant(Decoy, amplitude=4, slope=1000, share=1),
    'decoy for ce': _plant(DecoyForCrossEntropy, frequency=300),
    'cache 8/255': _plant(Cache, radius=8 / 255),
    'cache 17/255': _plant(Cache, radius=17 / 255),
    'counter 20': _plant(Counter, after=20),
    'counter 200': _plant(Counter, after=200),
    'dead zone': _plant(DeadZone, width=1),
    'clipped': _plant(Clipped, width=1),
    'flipped 10 %': _plant(FlippedOnSome, share=0.1),
    'flipped 30 %': _plant(FlippedOnSome, share=0.3),
}
