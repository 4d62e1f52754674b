"""The state of a model, and random draws, while it is attacked."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from m2at_mm.attacks.batch_norm_folding import folded_norms
from m2at_mm.attacks.logits import at_entrance
from m2at_mm.checks import check_choice

BN_MODES = ('eval', 'batch', 'train')
# Where networks look the function up: mmpretrain's `with_cp` and timm in
# PyTorch's module, MixMIM and MMEngine's `activation_checkpointing` in theirs.
_CHECKPOINTING = (
    'torch.utils.checkpoint',
    'mmpretrain.models.backbones.mixmim',
    'mmengine.runner.activation_checkpointing',
)


@contextmanager
def attack_mode(
    model: nn.Module,
    bn_mode: str = 'eval',
    images: Tensor | None = None,
    full_precision: bool = False,
) -> Iterator[None]:
    """Prepare a model for gradients on its images alone, then restore it.

    Inside, gradients are enabled and the parameters frozen.

    Args:
        model (nn.Module): The attacked model.
        bn_mode (str): ``'eval'``: every module in eval mode. ``'batch'``: the
            same, but batch norm, unless frozen (in eval mode inside a model
            in train mode), uses the statistics of the attacked batch and
            leaves the running ones untouched. ``'train'``: every module in
            the mode it is in.
        images (Tensor, optional): A batch with which :func:`folded_norms`
            looks for batch norms in mode ``'eval'``.
        full_precision (bool): Leave autocast.
    """
    check_choice('bn_mode', bn_mode, BN_MODES)
    with ExitStack() as stack:
        # On PyTorch before 2.2 or so, autocast may hand weights that it cast
        # without a gradient to the training forward.
        stack.callback(torch.clear_autocast_cache)
        stack.enter_context(_frozen_and_switched(model, bn_mode))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if full_precision:
            for device in {p.device.type for p in model.parameters()}:
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(differentiable_checkpoints())
        if bn_mode == 'eval' and images is not None:
            images = at_entrance(model, images)
            stack.enter_context(folded_norms(model, images))
        yield


@contextmanager
def _frozen_and_switched(model: nn.Module, bn_mode: str) -> Iterator[None]:
    # Inside FSDP they are views of its own parameters and cannot be frozen;
    # a gradient that is asked for on the images alone skips them as well.
    frozen = [p for p in model.parameters() if p.requires_grad and p.is_leaf]
    training = [(module, module.training) for module in model.modules()]
    live_norms = [
        module
        for module, mode in training
        if bn_mode == 'batch'
        and isinstance(module, _BatchNorm)
        and module.track_running_stats
        and (mode or not model.training)
    ]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        if bn_mode != 'train':
            for module, _ in training:
                module.training = False
        for norm in live_norms:
            norm.training = True
            # Without tracking, train mode neither reads nor updates the
            # running statistics.
            norm.track_running_stats = False
        yield
    finally:
        for norm in live_norms:
            norm.track_running_stats = True
        for module, mode in training:
            module.training = mode
        for parameter in frozen:
            parameter.requires_grad_(True)


@contextmanager
def differentiable_checkpoints() -> Iterator[None]:
    """Checkpoint activations in a form that ``autograd.grad`` accepts."""
    places: Any = [sys.modules[n] for n in _CHECKPOINTING if n in sys.modules]
    plain = [place.checkpoint for place in places]

    def checkpoint(*args: Any, **kwargs: Any) -> Any:
        return plain[0](*args, **dict(kwargs, use_reentrant=False))

    try:
        for place in places:
            place.checkpoint = checkpoint
        yield
    finally:
        for place, function in zip(places, plain):
            place.checkpoint = function


@contextmanager
def own_random_stream(
    device: torch.device, seed: int | None = None
) -> Iterator[None]:
    """Keep draws on CPU and device apart; without a seed they go on inside."""
    devices = [device] if device.type == 'cuda' else []
    with torch.random.fork_rng(devices=devices):
        if seed is not None:
            torch.manual_seed(seed)
        yield
