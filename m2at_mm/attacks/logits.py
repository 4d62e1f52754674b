"""Logits of a batch, and what they predict."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

#: The predicted label of an image whose logits are not finite.
NO_LABEL = -1
#: The modes of :func:`torch.compile`.
COMPILE_MODES = ('default', 'reduce-overhead', 'max-autotune')


def full(values: Tensor) -> Tensor:
    """Floats in float32, or in float64 if they are of that precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def at_entrance(model: Callable[..., Any], images: Tensor) -> Tensor:
    """Images in the precision of a module's first parameter of floats."""
    # Attacks keep theirs in float32 at least: in half precision a
    # perturbation of 8/255 has but a few levels.
    if isinstance(model, nn.Module):
        for parameter in model.parameters():
            if parameter.is_floating_point():
                return images.to(parameter.dtype)
    return images


def logits_of(
    model: Callable[..., Any], images: Tensor, compile_mode: str | None = None
) -> Any:
    """What a model, maybe compiled, returns for a batch, also of one image."""
    images = at_entrance(model, images)
    if compile_mode is not None:
        model = functools.partial(_compiled_call(compile_mode), model)
    logits = model(images)
    # Some networks, like mmpretrain's LeNet-5, squeeze a batch of one image
    # away. The number of dimensions first: a program that is exported for any
    # number of images must not depend on that number.
    if isinstance(logits, Tensor) and logits.ndim == 1 and len(images) == 1:
        logits = model(torch.cat([images, images]))[:1]
    return logits


@functools.cache
def _compiled_call(mode: str) -> Callable[..., Any]:
    def call(model: nn.Module, images: Tensor) -> Any:
        return model(images)

    return torch.compile(call, mode=mode)


def predicted_labels(logits: Tensor) -> Tensor:
    """Label of the largest logit; :data:`NO_LABEL` unless all are finite."""
    labels = logits.argmax(1)
    return labels.masked_fill(~logits.isfinite().all(1), NO_LABEL)
