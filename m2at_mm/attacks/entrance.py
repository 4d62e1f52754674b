"""The precision in which a model takes its images."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def full(values: Tensor) -> Tensor:
    """Values in float32, or in float64 if that is what they are.

    Args:
        values (Tensor): Floats of any shape.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def at_entrance(model: nn.Module, images: Tensor) -> Tensor:
    """Images in the precision of the model's parameters.

    Attacks keep theirs in float32 at least: in half precision a perturbation
    of 8/255 has but a few levels.

    Args:
        model (nn.Module): A model of float64, float32, float16 or bfloat16.
            Under autocast it is one of float32.
        images (Tensor): Floats of any shape.

    Returns:
        Tensor: Of the same shape, in the precision of the first parameter of
        floats; the same images if there is none.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return images.to(parameter.dtype)
    return images
