"""The logits behind a classifier's losses, without a second forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from m2at_mm.model_wrappers.heads import joined_logits
from m2at_mm.model_wrappers.loss_targets import loss_modules


@contextmanager
def recorded_logits(classifier: nn.Module) -> Iterator[list[Tensor]]:
    """Record the logits that a classifier predicts from while it learns.

    They are those of the attacked function: without the margin that ArcFace
    adds for its loss, and with the outputs of several heads joined.
    """
    seen: list[Tensor] = []
    head = getattr(classifier, 'head', None)

    def note(logits: Any) -> None:
        if isinstance(logits, Tensor) and logits.ndim == 2:
            seen.append(logits)

    def note_output(
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> None:
        if len(args) > 1 or kwargs:
            # Given more than features, like ArcFace's labels, a head gives
            # what its loss needs.
            output = module.forward(args[0]) if args else None
        note(joined_logits(module, output))

    # Classifiers of timm and Hugging Face have no head of mmpretrain.
    handles = [
        module.register_forward_pre_hook(lambda _, args: note(*args[:1]))
        for module in (loss_modules(classifier) if head is None else ())
    ]
    if head is not None:
        handles.append(
            head.register_forward_hook(note_output, with_kwargs=True)
        )
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
