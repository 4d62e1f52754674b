"""Batch norm folded into convolutions while a model is attacked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from m2at_mm.attacks.conv_norm_pairs import ConvNormPair, find_pairs


@contextmanager
def folded_norms(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Let convolutions do the work of the batch norms behind them.

    In eval mode a batch norm is an affine map per channel. Inside, each one
    that alone reads a convolution's output is passed over, and the
    convolution computes with weights that hold the map: the same function,
    up to rounding, for less time and memory. Afterwards, also on an
    exception, every module is what it was.

    What belongs together is seen in a forward pass, see :func:`find_pairs`.
    Models that draw random numbers or are compiled are left alone, as are
    modules with hooks.

    Args:
        model (nn.Module): In eval mode, with frozen parameters, as inside
            :func:`attack_mode`.
        images (Tensor): A batch that it takes, shape (N, C, H, W).
    """
    undo: list[tuple[ConvNormPair, Any, Any]] = []
    try:
        for pair in find_pairs(model, images):
            with torch.no_grad():
                weight, bias = pair.fold()
                if not images.is_contiguous():
                    # Else copied into this layout at each use.
                    weight = weight.contiguous(
                        memory_format=torch.channels_last
                    )
            # Plain tensors for the time being: nothing trains them.
            parameters: dict[str, Any] = pair.conv._parameters
            undo.append((pair, parameters['weight'], parameters['bias']))
            parameters['weight'], parameters['bias'] = weight, bias
            pair.norm.__dict__['forward'] = _identity
        yield
    finally:
        for pair, weight, bias in undo:
            pair.conv._parameters['weight'] = weight
            pair.conv._parameters['bias'] = bias
            del pair.norm.__dict__['forward']


def _identity(input: Tensor) -> Tensor:
    return input
