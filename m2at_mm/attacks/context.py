"""The state of a model while it is attacked, and after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from m2at_mm.attacks.checkpointing import differentiable_checkpoints
from m2at_mm.attacks.folding import folded_norms
from m2at_mm.attacks.logits import at_entrance

BN_MODES = ('eval', 'batch', 'train')


def check_bn_mode(bn_mode: str) -> None:
    """Raise ValueError unless ``bn_mode`` is one of :data:`BN_MODES`."""
    if bn_mode not in BN_MODES:
        raise ValueError(
            f'bn_mode={bn_mode!r} is unknown: choose one of {list(BN_MODES)}'
        )


@contextmanager
def attack_mode(
    model: nn.Module,
    bn_mode: str = 'eval',
    images: Tensor | None = None,
    full_precision: bool = False,
) -> Iterator[None]:
    """Prepare a model for gradients on its images alone, then restore it.

    Inside, gradients are enabled (also under ``torch.no_grad`` and
    ``torch.inference_mode``) and the parameters are frozen, so that a
    backward pass costs the input gradient only and no parameter gets a
    ``.grad``. Afterwards, also on an exception, the ``training`` flag of each
    module and the ``requires_grad`` of each parameter are what they were.

    Args:
        model (nn.Module): The attacked model.
        bn_mode (str): What the modules do while attacked.

            - ``'eval'``: every module in eval mode; batch norm uses its
              running statistics.
            - ``'batch'``: every module in eval mode, but batch norm uses the
              statistics of the attacked batch and leaves the running ones
              untouched. A batch norm that is frozen (in eval mode inside a
              model in train mode) stays so.
            - ``'train'``: every module in the mode it is in. In training,
              batch norm updates its running statistics at every step.

            Defaults to ``'eval'``.
        images (Tensor, optional): A batch that the model takes, RGB in
            [0, 1], shape (N, C, H, W). With it the convolutions do the work
            of the batch norms behind them in mode ``'eval'``, see
            :func:`folded_norms`. Defaults to None.
        full_precision (bool): Leave autocast: the model computes in its
            parameters' precision. Defaults to False.

    Raises:
        ValueError: ``bn_mode`` is unknown.
    """
    check_bn_mode(bn_mode)
    training = [(module, module.training) for module in model.modules()]
    # Inside FSDP they are views of its own parameters and cannot be frozen;
    # a gradient that is asked for on the images alone skips them as well.
    parameters = [
        p for p in model.parameters() if p.requires_grad and p.is_leaf
    ]
    live_norms = [
        module
        for module, mode in training
        if isinstance(module, _BatchNorm)
        and module.track_running_stats
        and (mode or not model.training)
    ]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        if bn_mode != 'train':
            for module, _ in training:
                module.training = False
        if bn_mode == 'batch':
            for norm in live_norms:
                norm.training = True
                # Without tracking, train mode neither reads nor updates the
                # running statistics.
                norm.track_running_stats = False
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            if full_precision:
                for device in {p.device.type for p in model.parameters()}:
                    stack.enter_context(torch.autocast(device, enabled=False))
            stack.enter_context(differentiable_checkpoints())
            if bn_mode == 'eval' and images is not None:
                stack.enter_context(
                    folded_norms(model, at_entrance(model, images))
                )
            yield
    finally:
        if bn_mode == 'batch':
            for norm in live_norms:
                norm.track_running_stats = True
        for module, mode in training:
            module.training = mode
        for parameter in parameters:
            parameter.requires_grad_(True)
        # On PyTorch before 2.2 or so, autocast may hand weights that it cast
        # without a gradient to the training forward.
        torch.clear_autocast_cache()
