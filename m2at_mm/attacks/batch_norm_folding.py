"""Batch norm folded into convolutions while a model is attacked."""

import pickle
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

# What a module calls around its forward pass: `_forward_hooks` and the like.
_HOOKS = ('forward_pre', 'forward', 'backward_pre', 'backward')
_allowed = True


@contextmanager
def no_folding() -> Iterator[None]:
    """Inside, every attack computes the model as it is."""
    global _allowed
    before, _allowed = _allowed, False
    try:
        yield
    finally:
        _allowed = before


@contextmanager
def folded_norms(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Let convolutions do the work of the batch norms behind them.

    In eval mode a batch norm is an affine map per channel: one that alone
    reads a convolution's output is passed over, and the convolution computes
    with weights that hold the map. Which ones these are is seen in the first
    forward pass that is made for a gradient, in which nothing is folded yet.
    Left alone are models that draw random numbers, are compiled or scripted,
    or have autograd functions of their own, and modules with hooks.
    """
    with ExitStack() as undo:
        if _allowed and not any(map(_is_program, model.modules())):
            watch = _Watch(model, images, undo)
            undo.enter_context(model.register_forward_pre_hook(watch.begin))
            hook = model.register_forward_hook(watch.end, always_call=True)
            undo.enter_context(hook)
            # An interrupt passes by hooks that are always called.
            undo.callback(watch.stack.close)
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


def _is_free_conv(module: Any) -> bool:
    # Not what computes its weights or pads in a way of its own.
    return (
        _is_free(module, nn.Conv2d.forward)
        and isinstance(module._parameters.get('weight'), nn.Parameter)
        and module.weight.shape[0] == module.out_channels
    )


def _is_free_norm(module: Any) -> bool:
    return (
        _is_free(module, _BatchNorm.forward, nn.SyncBatchNorm.forward)
        and module.running_mean is not None
        and module.running_var is not None
    )


def _is_free(module: nn.Module, *forwards: Any) -> bool:
    """Whether the module's forward pass is a plain one that nobody watches."""
    return (
        type(module).forward in forwards
        and 'forward' not in module.__dict__
        and not any(getattr(module, f'_{kind}_hooks', None) for kind in _HOOKS)
    )


def _is_program(module: nn.Module) -> bool:
    """Whether a module's computation is compiled or scripted."""
    forward = module.__dict__.get('forward')
    return (
        isinstance(module, torch.jit.ScriptModule)
        or getattr(module, '_compiled_call_impl', None) is not None
        or hasattr(module, '_orig_mod')
        or hasattr(forward, '_torchdynamo_orig_callable')
    )


def _has_plain_gradient(output: Any) -> bool:
    """Whether PyTorch's own operations alone lead to a tensor."""
    nodes, seen = [getattr(output, 'grad_fn', None)], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, BackwardCFunction) or 'jit' in node.name():
            return False
        nodes += [following for following, _ in node.next_functions]
    return bool(seen)


def _random_state(device: torch.device) -> bytes:
    streams = [random.getstate(), np.random.get_state()]
    streams.append(torch.get_rng_state().numpy())
    if device.type == 'cuda':
        streams.append(torch.cuda.get_rng_state(device).numpy())
    return pickle.dumps(streams)


class _Watch(TorchDispatchMode):
    """Sees what reads which convolution's output, then folds batch norms."""

    def __init__(
        self, model: nn.Module, images: Tensor, undo: ExitStack
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.convs: list[Any] = [*filter(_is_free_conv, model.modules())]
        self.norms: list[Any] = [*filter(_is_free_norm, model.modules())]
        self.images, self.undo, self.stack = images, undo, ExitStack()
        self.done = not (self.convs and self.norms)
        self.pairs: list[tuple[nn.Conv2d, _BatchNorm]] = []
        # By id; the tensors are kept meanwhile, for no id is to come twice.
        self.outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
        self.readers: dict[int, _BatchNorm] = {}
        self.reads: Counter[int] = Counter()
        self.calls: Counter[nn.Module] = Counter()

    def begin(self, model: nn.Module, args: Any) -> None:
        """Watch the first forward pass for a gradient; fold after it."""
        # Not at its end: the backward pass may compute it once more.
        if self.pairs:
            self.fold_pairs()
        tensors = [one for one in args if isinstance(one, Tensor)]
        if self.done or not any(one.requires_grad for one in tensors):
            return
        self.done = True
        for conv in self.convs:
            hook = conv.register_forward_hook(self.after_conv)
            self.stack.enter_context(hook)
        for norm in self.norms:
            watch = norm.register_forward_pre_hook
            hook = watch(self.before_norm, with_kwargs=True)
            self.stack.enter_context(hook)
        self.random_state = _random_state(self.images.device)
        self.stack.enter_context(self)

    def end(self, model: nn.Module, args: Any, output: Any) -> None:
        """Stop watching, also after an error."""
        self.stack.close()
        if self.outputs:
            drew = self.random_state != _random_state(self.images.device)
            if not drew and _has_plain_gradient(output):
                self.pairs = self.find_pairs()
            # They hold the whole graph of the pass.
            self.outputs.clear()

    def after_conv(self, conv: nn.Conv2d, args: Any, out: Tensor) -> None:
        self.calls[conv] += 1
        self.outputs[id(out)] = (conv, out)

    def before_norm(self, norm: _BatchNorm, args: Any, kwargs: Any) -> None:
        self.calls[norm] += 1
        for value in (*args, *kwargs.values()):
            if id(value) in self.outputs:
                self.readers[id(value)] = norm

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        leaves = tree_flatten((args, kwargs))[0]
        self.reads.update({id(one) for one in leaves} & self.outputs.keys())
        return func(*args, **(kwargs or {}))

    def find_pairs(self) -> list[tuple[nn.Conv2d, _BatchNorm]]:
        """Modules that ran once, in a row, with nobody else reading."""
        return [
            (conv, self.readers[key])
            for key, (conv, _) in self.outputs.items()
            if key in self.readers
            and self.reads[key] == 1
            and self.calls[conv] == self.calls[self.readers[key]] == 1
        ]

    def fold_pairs(self) -> None:
        """Let the convolutions do the work of their batch norms."""
        weights = {conv.weight.dtype: conv.weight for conv, _ in self.pairs}
        kinds = {kind: _autocast_dtype(weights[kind]) for kind in weights}
        for conv, norm in self.pairs:
            # An attack around this one may have done so.
            if not (_is_free_conv(conv) and _is_free_norm(norm)):
                continue
            weight, bias = _fold(conv, norm)
            # Else cast and copied into this layout at each use.
            kind = kinds[weight.dtype]
            weight, bias = weight.to(kind), bias.to(kind)
            if not self.images.is_contiguous():
                weight = weight.contiguous(memory_format=torch.channels_last)
            # Plain tensors for the time being: nothing trains them.
            parameters: dict[str, Any] = conv._parameters
            self.undo.callback(parameters.update, **parameters)
            self.undo.callback(norm.__dict__.pop, 'forward')
            parameters.update(weight=weight, bias=bias)
            norm.__dict__['forward'] = lambda input: input
        self.pairs.clear()
