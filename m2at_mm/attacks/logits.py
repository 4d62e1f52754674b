"""Logits of a batch, and what they predict."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

#: The predicted label of an image whose logits are not finite.
NO_LABEL = -1


def full(values: Tensor) -> Tensor:
    """Floats in float32, or in float64 if they are of that precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def at_entrance(model: Callable[..., Any], images: Tensor) -> Tensor:
    """Images in the precision of the model's parameters.

    Attacks keep theirs in float32 at least: in half precision a perturbation
    of 8/255 has but a few levels.

    Args:
        model (Callable): A module of float64, float32, float16 or bfloat16,
            also compiled. Under autocast it is one of float32.
        images (Tensor): Floats of any shape.

    Returns:
        Tensor: Of the same shape, in the precision of the first parameter of
        floats; the same images if there is none.
    """
    if isinstance(model, functools.partial):  # see compiled()
        (model,) = model.args
    if isinstance(model, nn.Module):
        for parameter in model.parameters():
            if parameter.is_floating_point():
                return images.to(parameter.dtype)
    return images


def logits_of(model: Callable[[Tensor], Any], images: Tensor) -> Any:
    """What a model returns for a batch, also for a batch of one image.

    Some networks squeeze their features, and with one image they lose the
    dimension of the batch: mmpretrain's LeNet-5 returns logits of shape
    (K, ). Such a model is given the image twice.

    Args:
        model (Callable): Maps images, shape (N, C, H, W), to logits of shape
            (N, K).
        images (Tensor): Shape (N, C, H, W), of any precision, see
            :func:`at_entrance`.

    Returns:
        Any: Logits of shape (N, K), if the model gives logits at all.
    """
    images = at_entrance(model, images)
    logits = model(images)
    # The number of dimensions first: a program that is exported for any
    # number of images must not depend on that number.
    if isinstance(logits, Tensor) and logits.ndim == 1 and len(images) == 1:
        logits = model(torch.cat([images, images]))[:1]
    return logits


def predicted_labels(logits: Tensor) -> Tensor:
    """The label of the largest logit, where all logits are finite.

    ``argmax`` takes not-a-number for the largest value, so a network that
    overflows would seem to answer "class 0".

    Args:
        logits (Tensor): Logits or probabilities, shape (N, K).

    Returns:
        Tensor: Labels, int64 of shape (N, ); :data:`NO_LABEL`, which no
        image has, where a logit is not finite.
    """
    labels = logits.argmax(1)
    return labels.masked_fill(~logits.isfinite().all(1), NO_LABEL)
