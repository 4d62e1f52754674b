"""What the tests of the backbones compute by hand."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def batch_norm(state: dict[str, Tensor], x: Tensor, name: str) -> Tensor:
    """Batch norm in eval mode, from the weights of a layer by name."""
    mean, var, weight, bias = (
        state[f'{name}.{part}']
        for part in ('running_mean', 'running_var', 'weight', 'bias')
    )
    return F.batch_norm(x, mean, var, weight, bias)


def draw_statistics(net: nn.Module) -> None:
    """Random running statistics, so that they matter."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 1.5)
