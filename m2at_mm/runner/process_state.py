"""What a process of a training has and no checkpoint of MMEngine holds."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_world_size
from torch import Tensor, nn

from m2at_mm.methods.base import Method
from m2at_mm.model_wrappers.distributed import bare_model


def process_state(model: nn.Module) -> dict[str, Any]:
    """The state of this process, in types that load with ``weights_only``.

    Args:
        model (nn.Module): In training, in its wrapper if it has one.

    Returns:
        dict: ``streams`` (see :func:`random_streams`); ``method``, what the
        training method keeps; ``gradients`` that are being accumulated;
        ``buffers``, with several processes the running statistics that only
        this one has.
    """
    bare = bare_model(model)
    method = getattr(bare, 'method', None)
    kept = method.state_dict() if isinstance(method, Method) else {}
    alone = get_world_size() == 1
    gradients = {
        name: parameter.grad
        for name, parameter in bare.named_parameters()
        if parameter.grad is not None
    }
    return dict(
        streams=random_streams(),
        method=_on_cpu(kept),
        gradients=_on_cpu(gradients),
        buffers={} if alone else _on_cpu(dict(bare.named_buffers())),
    )


def set_process_state(model: nn.Module, state: dict[str, Any]) -> None:
    """Go on from what :func:`process_state` gave.

    Args:
        model (nn.Module): Of the same kind.
        state (dict): On any device.
    """
    set_random_streams(state['streams'])
    bare = bare_model(model)
    if state['method']:
        bare.method.load_state_dict(state['method'])
    gradients = state.get('gradients', {})
    for name, parameter in bare.named_parameters():
        if name in gradients:
            parameter.grad = gradients[name].to(parameter.device)
    buffers = dict(bare.named_buffers())
    for name, value in state['buffers'].items():
        buffers[name].copy_(value)


def random_streams() -> dict[str, Any]:
    """The states of Python's, NumPy's and PyTorch's streams.

    On a GPU also that of the process's device.
    """
    version, words, gauss = random.getstate()
    state: Any = np.random.get_state()
    name, keys, position, has_gauss, cached = state
    streams: dict[str, Any] = dict(
        python=[version, list(words), gauss],
        numpy=[name, keys.tolist(), position, has_gauss, float(cached)],
        torch=torch.get_rng_state(),
    )
    if torch.cuda.is_available():
        streams['cuda'] = torch.cuda.get_rng_state()
    return streams


def set_random_streams(streams: dict[str, Any]) -> None:
    """Go on from what :func:`random_streams` gave."""
    version, words, gauss = streams['python']
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = streams['numpy']
    np.random.set_state(
        (name, np.array(keys, dtype=np.uint32), position, has_gauss, cached)
    )
    torch.set_rng_state(streams['torch'].cpu())
    if 'cuda' in streams and torch.cuda.is_available():
        torch.cuda.set_rng_state(streams['cuda'].cpu())


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in tensors.items()}
