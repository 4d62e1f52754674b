"""Activation checkpointing that gives the gradient of images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Where networks look the function up: mmpretrain's `with_cp` and timm in
# PyTorch's module, MixMIM and MMEngine's `activation_checkpointing` in theirs.
_PLACES = (
    'torch.utils.checkpoint',
    'mmpretrain.models.backbones.mixmim',
    'mmengine.runner.activation_checkpointing',
)


@contextmanager
def differentiable_checkpoints() -> Iterator[None]:
    """Checkpoint activations in the form that ``autograd.grad`` accepts.

    PyTorch's default so far, the reentrant one, works in ``backward`` alone.
    The other form recomputes the same activations.
    """
    places = [sys.modules[name] for name in _PLACES if name in sys.modules]
    plain: list[Callable[..., Any]] = [place.checkpoint for place in places]

    def checkpoint(
        function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        return plain[0](function, *args, **dict(kwargs, use_reentrant=False))

    try:
        for place in places:
            place.checkpoint = checkpoint  # type: ignore[attr-defined]
        yield
    finally:
        for place, function in zip(places, plain):
            place.checkpoint = function  # type: ignore[attr-defined]
