"""The attacked function, compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

#: What :func:`torch.compile` calls its modes.
COMPILE_MODES = ('default', 'reduce-overhead', 'max-autotune')


def compiled(model: nn.Module, mode: str) -> Callable[[Tensor], Tensor]:
    """A model's forward pass through :func:`torch.compile`.

    Nothing is kept on the model: copies, state dicts and checkpoints are as
    before. What was compiled serves all later calls with the same model and
    shapes.

    Args:
        model (nn.Module): Maps images of shape (N, C, H, W) to logits of
            shape (N, K).
        mode (str): One of :data:`COMPILE_MODES`.

    Returns:
        Callable: Maps images to the model's logits.
    """
    return functools.partial(_compiled_call(mode), model)


@functools.cache
def _compiled_call(mode: str) -> Callable[..., Any]:
    def call(model: nn.Module, images: Tensor) -> Any:
        return model(images)

    return torch.compile(call, mode=mode)
