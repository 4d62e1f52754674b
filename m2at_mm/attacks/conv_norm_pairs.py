"""Convolutions and the batch norms behind them, found in a network."""

from __future__ import annotations

import random
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from m2at_mm.attacks.random_stream import own_random_stream

# What a module calls around its forward pass.
_HOOKS = (
    '_forward_pre_hooks',
    '_forward_hooks',
    '_backward_pre_hooks',
    '_backward_hooks',
)
_PLAIN = frozenset((type(None), bool, int, float, str))


@dataclass(frozen=True)
class ConvNormPair:
    """A convolution and the batch norm that alone reads its output."""

    conv: nn.Conv2d
    norm: _BatchNorm

    def fold(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution that does the work of both."""
        norm, weight = self.norm, self.conv.weight
        assert norm.running_mean is not None and norm.running_var is not None
        scale = torch.rsqrt(norm.running_var + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight
        shift = -norm.running_mean
        if self.conv.bias is not None:
            shift = shift + self.conv.bias
        bias = shift * scale
        if norm.bias is not None:
            bias = bias + norm.bias
        folded = weight * scale.view(-1, 1, 1, 1)
        return folded.to(weight.dtype), bias.to(weight.dtype)


@dataclass(frozen=True)
class _Search:
    """What was found, by the modules' names, and in which circumstances."""

    circumstances: list[Any]
    names: list[tuple[str, str]]


# Of each network the last search.
_searches: weakref.WeakKeyDictionary[nn.Module, _Search] = (
    weakref.WeakKeyDictionary()
)


def find_pairs(model: nn.Module, images: Tensor) -> list[ConvNormPair]:
    """Convolutions whose output one batch norm reads, and nobody else.

    Found in a forward pass of one image, where every operation on a
    convolution's output counts. The next calls go by the same pass, until
    anything that a module holds is another than before, the values of
    tensors aside, or the images are of another shape, type or layout.

    Args:
        model (nn.Module): In eval mode.
        images (Tensor): A batch that it takes, shape (N, C, H, W).

    Returns:
        list[ConvNormPair]: In the order of the forward pass. None of a model
        that draws random numbers or is compiled, and none with a hook.
    """
    if not len(images):
        return []
    modules = dict(model.named_modules())
    circumstances = _circumstances(modules, images)
    search = _searches.get(model)
    if search is None or search.circumstances != circumstances:
        names = {module: name for name, module in modules.items()}
        search = _Search(
            circumstances,
            [(names[p.conv], names[p.norm]) for p in _search(model, images)],
        )
        _searches[model] = search
    return [
        ConvNormPair(modules[conv], modules[norm])
        for conv, norm in search.names
    ]


def _circumstances(modules: dict[str, nn.Module], images: Tensor) -> list[Any]:
    """All that a forward pass can go by but the values of tensors."""
    found: list[Any] = [
        images.shape[1:],
        images.dtype,
        images.device,
        images.is_contiguous(),
        torch.is_autocast_enabled(),
        torch.is_autocast_cpu_enabled(),
    ]
    for name, module in modules.items():
        kind = type(module)
        found += (name, kind, kind.forward, _content(vars(module)))
    return found


def _content(value: Any, depth: int = 6) -> Any:
    """Plain values as they are, others by what and which they are."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, Tensor):
        return kind, value.shape, value.dtype
    if isinstance(value, (dict, list, tuple)) and depth:
        parts = [kind, *value]
        if isinstance(value, dict):
            parts += dict.values(value)
        return [
            part if type(part) in _PLAIN else _content(part, depth - 1)
            for part in parts
        ]
    if isinstance(value, (set, frozenset)):
        return frozenset(value)
    return kind, id(value)


def _search(model: nn.Module, images: Tensor) -> list[ConvNormPair]:
    """The pairs of a model by a forward pass of one image."""
    modules = list(model.modules())
    convs = [m for m in modules if _is_free_conv(m)]
    norms = [m for m in modules if _is_free_norm(m)]
    if not (convs and norms) or _is_compiled(modules):
        return []
    trace = _Trace()
    with own_random_stream(images.device), torch.no_grad():
        before = _random_state()
        with trace.watching(convs, norms):
            model(images[:1])
        if not _equal(before, _random_state()):
            return []
    return trace.pairs()


def _is_free(module: nn.Module) -> bool:
    """Whether nobody watches or replaces the module's forward pass."""
    return 'forward' not in module.__dict__ and not any(
        getattr(module, hooks, None) for hooks in _HOOKS
    )


def _is_free_conv(module: nn.Module) -> bool:
    # Not what computes its weights or pads in a way of its own.
    return (
        isinstance(module, nn.Conv2d)
        and type(module).forward is nn.Conv2d.forward
        and isinstance(module._parameters.get('weight'), nn.Parameter)
        and module.weight.shape[0] == module.out_channels
        and _is_free(module)
    )


def _is_free_norm(module: nn.Module) -> bool:
    plain = (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward)
    return (
        isinstance(module, _BatchNorm)
        and type(module).forward in plain
        and module.running_mean is not None
        and module.running_var is not None
        and _is_free(module)
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


def _random_state() -> list[Any]:
    keys: Any = np.random.get_state()
    return [
        torch.get_rng_state(),
        random.getstate(),
        keys[1].tolist(),
        keys[2],
    ]


def _equal(first: list[Any], second: list[Any]) -> bool:
    return torch.equal(first[0], second[0]) and first[1:] == second[1:]


@dataclass
class _Trace:
    """Who read which convolution's output in a forward pass."""

    # By id; the tensors are kept, for ids that are not used again.
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = field(default_factory=dict)
    reads: dict[int, int] = field(default_factory=dict)
    readers: dict[int, _BatchNorm] = field(default_factory=dict)
    calls: dict[nn.Module, int] = field(default_factory=dict)

    @contextmanager
    def watching(self, convs: list[Any], norms: list[Any]) -> Iterator[None]:
        """Note the calls of modules and all operations inside."""
        with ExitStack() as stack:
            for conv in convs:
                handle = conv.register_forward_hook(self._after_conv)
                stack.callback(handle.remove)
            for norm in norms:
                handle = norm.register_forward_pre_hook(
                    self._before_norm, with_kwargs=True
                )
                stack.callback(handle.remove)
            stack.enter_context(_Reads(self))
            yield

    def _after_conv(
        self, conv: nn.Conv2d, args: tuple[Any, ...], out: Tensor
    ) -> None:
        self.calls[conv] = self.calls.get(conv, 0) + 1
        self.outputs[id(out)] = (conv, out)

    def _before_norm(
        self, norm: _BatchNorm, args: tuple[Any, ...], kw: dict[str, Any]
    ) -> None:
        self.calls[norm] = self.calls.get(norm, 0) + 1
        for value in (*args, *kw.values()):
            if id(value) in self.outputs:
                self.readers[id(value)] = norm

    def note(self, arguments: Sequence[Any]) -> None:
        """Count an operation on a convolution's output."""
        for key in {id(value) for value in arguments} & self.outputs.keys():
            self.reads[key] = self.reads.get(key, 0) + 1

    def pairs(self) -> list[ConvNormPair]:
        """Modules that ran once, in a row, with nobody else reading."""
        return [
            ConvNormPair(conv, self.readers[key])
            for key, (conv, _) in self.outputs.items()
            if key in self.readers
            and self.reads.get(key) == 1
            and self.calls[conv] == self.calls[self.readers[key]] == 1
        ]


class _Reads(TorchFunctionMode):
    """Tells a trace of every operation that makes a tensor of others."""

    def __init__(self, trace: _Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Optional[dict[str, Any]] = None,
    ) -> Any:
        kwargs = kwargs or {}
        inputs = _leaves((*args, *kwargs.values()))
        result = func(*args, **kwargs)
        # Not the reading of a shape.
        if any(isinstance(one, Tensor) for one in _leaves((result,))):
            self.trace.note(inputs)
        return result


def _leaves(values: tuple[Any, ...]) -> Sequence[Any]:
    """What is inside of containers; most values are in none."""
    if any(isinstance(value, (tuple, list, dict)) for value in values):
        return tree_flatten(values)[0]
    return values
