"""Batch norm folded into convolutions while a model is attacked."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from m2at_mm.attacks.random_stream import own_random_stream

# What a module calls around its forward pass: `_forward_hooks` and the like.
_HOOKS = ('forward_pre', 'forward', 'backward_pre', 'backward')
# A convolution and the batch norm that alone reads its output.
_Pair = tuple[nn.Conv2d, Any]


@contextmanager
def folded_norms(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Let convolutions do the work of the batch norms behind them.

    In eval mode a batch norm is an affine map per channel: one that alone
    reads a convolution's output is passed over, and the convolution computes
    with weights that hold the map. Models that draw random numbers or are
    compiled are left alone, as are modules with hooks.
    """
    pairs = _find_pairs(model, images)
    weights = {conv.weight.dtype: conv.weight for conv, _ in pairs}
    kinds = {kind: _autocast_dtype(weights[kind]) for kind in weights}
    with ExitStack() as undo:
        for conv, norm in pairs:
            weight, bias = _fold(conv, norm)
            # Else cast and copied into this layout at each use.
            kind = kinds[weight.dtype]
            weight, bias = weight.to(kind), bias.to(kind)
            if not images.is_contiguous():
                weight = weight.contiguous(memory_format=torch.channels_last)
            # Plain tensors for the time being: nothing trains them.
            parameters: dict[str, Any] = conv._parameters
            undo.callback(parameters.update, **parameters)
            undo.callback(norm.__dict__.pop, 'forward')
            parameters.update(weight=weight, bias=bias)
            norm.__dict__['forward'] = lambda input: input
        yield


def _autocast_dtype(weight: Tensor) -> torch.dtype:
    """What autocast, where it is on, casts a weight to for a convolution."""
    one = weight.new_zeros(1, 1)
    return (one @ one).dtype


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that does the work of both."""
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale * (1 if norm.weight is None else norm.weight)
    shift = (0 if conv.bias is None else conv.bias) - norm.running_mean
    bias = shift * scale + (0 if norm.bias is None else norm.bias)
    weight = conv.weight * scale.view(-1, 1, 1, 1)
    return weight.to(conv.weight.dtype), bias.to(conv.weight.dtype)


def _find_pairs(model: nn.Module, images: Tensor) -> list[_Pair]:
    modules: list[Any] = list(model.modules())
    convs = [
        module
        for module in modules
        if _is_free(module, nn.Conv2d.forward)
        # Not what computes its weights or pads in a way of its own.
        and isinstance(module._parameters.get('weight'), nn.Parameter)
        and module.weight.shape[0] == module.out_channels
    ]
    norms = [
        module
        for module in modules
        if _is_free(module, _BatchNorm.forward, nn.SyncBatchNorm.forward)
        and module.running_mean is not None
        and module.running_var is not None
    ]
    if not (convs and norms and len(images)) or _is_compiled(modules):
        return []
    trace = _Trace()
    with own_random_stream(images.device), torch.no_grad():
        before = _random_state(images.device)
        with ExitStack() as stack:
            for conv in convs:
                hook = conv.register_forward_hook(trace.after_conv)
                stack.enter_context(hook)
            for norm in norms:
                hook = norm.register_forward_pre_hook(
                    trace.before_norm, with_kwargs=True
                )
                stack.enter_context(hook)
            stack.enter_context(trace)
            model(images[:1])
        if before != _random_state(images.device):
            return []
    return trace.pairs()


def _is_free(module: nn.Module, *forwards: Any) -> bool:
    """Whether the module's forward pass is a plain one that nobody watches."""
    return (
        type(module).forward in forwards
        and 'forward' not in module.__dict__
        and not any(getattr(module, f'_{kind}_hooks', None) for kind in _HOOKS)
    )


def _is_compiled(modules: list[nn.Module]) -> bool:
    return any(
        getattr(module, '_compiled_call_impl', None) is not None
        or hasattr(module, '_orig_mod')
        or hasattr(
            module.__dict__.get('forward'), '_torchdynamo_orig_callable'
        )
        for module in modules
    )


def _random_state(device: torch.device) -> bytes:
    streams = [random.getstate(), np.random.get_state()]
    streams.append(torch.get_rng_state().numpy())
    if device.type == 'cuda':
        streams.append(torch.cuda.get_rng_state(device).numpy())
    return pickle.dumps(streams)


class _Trace(TorchFunctionMode):
    """Sees who reads which convolution's output in a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        # By id; the tensors are kept, for ids that are not used again.
        self.outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
        self.readers: dict[int, nn.Module] = {}
        self.reads: Counter[int] = Counter()
        self.calls: Counter[nn.Module] = Counter()

    def after_conv(self, conv: nn.Conv2d, args: Any, out: Tensor) -> None:
        self.calls[conv] += 1
        self.outputs[id(out)] = (conv, out)

    def before_norm(self, norm: nn.Module, args: Any, kwargs: Any) -> None:
        self.calls[norm] += 1
        for value in (*args, *kwargs.values()):
            if id(value) in self.outputs:
                self.readers[id(value)] = norm

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        inputs = {id(one) for one in _leaves((*args, *kwargs.values()))}
        result = func(*args, **kwargs)
        # Operations that make a tensor of others, not the reading of a shape.
        if any(isinstance(one, Tensor) for one in _leaves((result,))):
            self.reads.update(inputs & self.outputs.keys())
        return result

    def pairs(self) -> list[_Pair]:
        """Modules that ran once, in a row, with nobody else reading."""
        return [
            (conv, self.readers[key])
            for key, (conv, _) in self.outputs.items()
            if key in self.readers
            and self.reads[key] == 1
            and self.calls[conv] == self.calls[self.readers[key]] == 1
        ]


def _leaves(values: tuple[Any, ...]) -> Sequence[Any]:
    """What is inside of containers; most values are in none."""
    if any(isinstance(value, (tuple, list, dict)) for value in values):
        return tree_flatten(values)[0]
    return values
