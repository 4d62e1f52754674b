"""Batch norm folded into convolutions while a model is attacked."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from m2at_mm.attacks.random_stream import own_random_stream

# Forward and backward passes from which on the search for pairs is made up for
# on a GPU: in the host's time the search costs what 8 passes save, 3.0 ms and
# 0.4 ms for ResNet-18 on one core. On a CPU it is a pass of one image.
_FEWEST_PASSES_ON_GPU = 8
# What a module calls around its forward pass.
_HOOKS = (
    '_forward_pre_hooks',
    '_forward_hooks',
    '_backward_pre_hooks',
    '_backward_hooks',
)


def folding_pays(device: torch.device, passes: int) -> bool:
    """Whether an attack of so many passes gains from :func:`folded_norms`."""
    return device.type == 'cpu' or passes >= _FEWEST_PASSES_ON_GPU


@contextmanager
def folded_norms(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Let convolutions do the work of the batch norms behind them.

    In eval mode a batch norm is an affine map per channel. Inside, each one
    that alone reads a convolution's output is passed over, and the
    convolution computes with weights that hold the map. Afterwards, also on
    an exception, every module is what it was.

    What belongs together is seen in a forward pass of one image, anew each
    time: every operation on a convolution's output counts. Models that draw
    random numbers or are compiled are left alone, as are modules with hooks.
    The model is in eval mode, with frozen parameters, as inside
    :func:`attack_mode`, and takes batches like ``images``.
    """
    undo: list[tuple[_Pair, Any, Any]] = []
    try:
        pairs = _find_pairs(model, images)
        weights = {pair.conv.weight.dtype: pair.conv.weight for pair in pairs}
        kinds = {kind: _autocast_dtype(weights[kind]) for kind in weights}
        for pair in pairs:
            with torch.no_grad():
                weight, bias = pair.fold()
                # Else cast and copied into this layout at each use.
                kind = kinds[weight.dtype]
                weight, bias = weight.to(kind), bias.to(kind)
                if not images.is_contiguous():
                    weight = weight.contiguous(
                        memory_format=torch.channels_last
                    )
            # Plain tensors for the time being: nothing trains them.
            parameters: dict[str, Any] = pair.conv._parameters
            undo.append((pair, parameters['weight'], parameters['bias']))
            parameters['weight'], parameters['bias'] = weight, bias
            pair.norm.__dict__['forward'] = _identity
        yield
    finally:
        for pair, weight, bias in undo:
            pair.conv._parameters['weight'] = weight
            pair.conv._parameters['bias'] = bias
            del pair.norm.__dict__['forward']


def _autocast_dtype(weight: Tensor) -> torch.dtype:
    """What autocast, where it is on, casts a weight to for a convolution."""
    one = weight.new_zeros(1, 1)
    return (one @ one).dtype


def _identity(input: Tensor) -> Tensor:
    return input


class _Pair(NamedTuple):
    """A convolution and the batch norm that alone reads its output."""

    conv: nn.Conv2d
    norm: _BatchNorm

    def fold(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution that does the work of both."""
        conv, norm = self
        assert norm.running_mean is not None and norm.running_var is not None
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale * (1 if norm.weight is None else norm.weight)
        shift = (0 if conv.bias is None else conv.bias) - norm.running_mean
        bias = shift * scale + (0 if norm.bias is None else norm.bias)
        weight = conv.weight * scale.view(-1, 1, 1, 1)
        return weight.to(conv.weight.dtype), bias.to(conv.weight.dtype)


def _find_pairs(model: nn.Module, images: Tensor) -> list[_Pair]:
    """The pairs of a model that can be folded, maybe none."""
    modules = list(model.modules())
    convs = [m for m in modules if _is_free_conv(m)]
    norms = [m for m in modules if _is_free_norm(m)]
    if not (convs and norms and len(images)) or _is_compiled(modules):
        return []
    trace = _Trace()
    with own_random_stream(images.device), torch.no_grad():
        before = _random_state(images.device)
        with ExitStack() as stack:
            for conv in convs:
                handle = conv.register_forward_hook(trace.after_conv)
                stack.callback(handle.remove)
            for norm in norms:
                handle = norm.register_forward_pre_hook(
                    trace.before_norm, with_kwargs=True
                )
                stack.callback(handle.remove)
            with trace:
                model(images[:1])
        if before != _random_state(images.device):
            return []
    return trace.pairs()


def _is_free(module: nn.Module, *forwards: Any) -> bool:
    """Whether the module's forward pass is a plain one that nobody watches."""
    return (
        type(module).forward in forwards
        and 'forward' not in module.__dict__
        and not any(getattr(module, hooks, None) for hooks in _HOOKS)
    )


def _is_free_conv(module: nn.Module) -> bool:
    # Not what computes its weights or pads in a way of its own.
    return (
        isinstance(module, nn.Conv2d)
        and isinstance(module._parameters.get('weight'), nn.Parameter)
        and module.weight.shape[0] == module.out_channels
        and _is_free(module, nn.Conv2d.forward)
    )


def _is_free_norm(module: nn.Module) -> bool:
    return (
        isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and module.running_var is not None
        and _is_free(module, _BatchNorm.forward, nn.SyncBatchNorm.forward)
    )


def _is_compiled(modules: list[nn.Module]) -> bool:
    """Whether torch.compile holds any of the modules' computation."""
    return any(
        getattr(module, '_compiled_call_impl', None) is not None
        or hasattr(module, '_orig_mod')
        or hasattr(
            module.__dict__.get('forward'), '_torchdynamo_orig_callable'
        )
        for module in modules
    )


def _random_state(device: torch.device) -> bytes:
    """The streams that a model may draw from, all kept by the host."""
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
        self.readers: dict[int, _BatchNorm] = {}
        self.reads: Counter[int] = Counter()
        self.calls: Counter[nn.Module] = Counter()

    def after_conv(
        self, conv: nn.Conv2d, args: tuple[Any, ...], out: Tensor
    ) -> None:
        self.calls[conv] += 1
        self.outputs[id(out)] = (conv, out)

    def before_norm(
        self, norm: _BatchNorm, args: tuple[Any, ...], kw: dict[str, Any]
    ) -> None:
        self.calls[norm] += 1
        for value in (*args, *kw.values()):
            if id(value) in self.outputs:
                self.readers[id(value)] = norm

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
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
            _Pair(conv, self.readers[key])
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
