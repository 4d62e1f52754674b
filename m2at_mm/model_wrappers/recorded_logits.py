"""The logits behind a classifier's losses, without a second forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def recorded_logits(classifier: nn.Module) -> Iterator[list[Tensor]]:
    """Record the first argument of the classifier's loss modules."""
    seen: list[Tensor] = []

    def record(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor) and args[0].ndim == 2:
            seen.append(args[0])

    handles = [
        module.register_forward_pre_hook(record)
        for name, module in classifier.named_modules()
        if name.rsplit('.', 1)[-1] == 'loss_module'
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
