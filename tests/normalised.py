"""Networks that read a convolution's output beside its batch norm."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

FEATURES: dict[str, Callable[..., Tensor]] = dict(
    # Changes a convolution's output in front of its batch norm.
    in_place=lambda net, x, norm: norm(net.conv(x).add_(0.5)),
    # A gate hides at first that the output is used twice.
    gated=lambda net, x, norm: (
        net.gate * torch.add(input=(out := net.conv(x)), other=1.0) + norm(out)
    ),
    # One convolution for two batch norms.
    shared=lambda net, x, norm: norm(net.conv(x)) * net.norms[1](net.conv(x)),
    # A flag chooses between two batch norms, as AdvProp does.
    switched=lambda net, x, norm: norm(net.conv(x)),
    # A randomised defence.
    noisy=lambda net, x, norm: norm(net.conv(x + 0.1 * torch.randn_like(x))),
)


class Second(torch.autograd.Function):
    """Reads a tensor, in the forward or in the backward pass only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, other: Tensor, late: bool) -> Tensor:
        ctx.save_for_backward(other)
        ctx.late = late
        return x.clone() if late else x + other

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        other = ctx.saved_tensors[0] if ctx.late else 1.0
        return gradient * other, None if ctx.late else gradient, None


@torch.jit.script
def add_scripted(x: Tensor, other: Tensor) -> Tensor:
    return x + other


class Add(nn.Module):
    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return x + other


def both(combine: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Puts the output of a batch norm together with its input."""
    return lambda net, x, norm: combine(net, norm(out := net.conv(x)), out)


FEATURES |= dict(
    reused=both(lambda net, a, b: a + b),
    function=both(lambda net, *pair: Second.apply(*pair, False)),
    function_backward=both(lambda net, *pair: Second.apply(*pair, True)),
    scripted_function=both(lambda net, *pair: add_scripted(*pair)),
    scripted_module=both(lambda net, *pair: net.add(*pair)),
    raw=both(lambda net, *pair: torch.ops.aten.add(*pair)),
    # Not what one image would show.
    by_size=both(lambda net, a, b: a + (b if len(b) > 4 else 0)),
)


class Layers(nn.Module):
    """A convolution, two batch norms, and a way to put them together."""

    def __init__(self, features: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(6)])
        if features == 'scripted_module':
            self.add = torch.jit.script(Add())
        self.gate = nn.Parameter(torch.zeros(()))
        self.flag, self.features = 0, FEATURES[features]

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(self, images, self.norms[self.flag])
        return features.relu().mean((2, 3))
