"""Batch norm folded into convolutions while a model is attacked."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from m2at_mm.attacks.random_stream import own_random_stream

# Images of the batch on which the pairs are found and tried.
_NUM_TRIED = 2


@dataclass(frozen=True)
class _Pair:
    """A convolution and the batch norm that alone reads its output."""

    conv: nn.Conv2d
    norm: _BatchNorm

    def is_free(self) -> bool:
        """Whether nobody watches the tensor between them."""
        return not (
            self.conv._forward_hooks
            or self.conv._backward_hooks
            or self.norm._forward_pre_hooks
            or self.norm._backward_hooks
            or self.norm._backward_pre_hooks
        )

    def fold(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution that does the work of both."""
        norm = self.norm
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
        return self.conv.weight * scale.view(-1, 1, 1, 1), bias


# By model: what was found once is used for every later attack.
_PAIRS: weakref.WeakKeyDictionary[nn.Module, list[_Pair]]
_PAIRS = weakref.WeakKeyDictionary()


@contextmanager
def folded_norms(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Let convolutions do the work of the batch norms behind them.

    In eval mode a batch norm is an affine map per channel. Inside, each one
    that alone reads a convolution's output is passed over, and the
    convolution computes with weights that hold the map: the same function,
    up to rounding, for less time and memory. Afterwards, also on an
    exception, every module is what it was.

    Which modules belong together is found in a forward pass of the first
    images, and tried against the plain model in a second one. A model that
    gives other logits then, like one that also uses a convolution's output
    elsewhere, is never folded.

    Args:
        model (nn.Module): In eval mode, with frozen parameters, as inside
            :func:`attack_mode`.
        images (Tensor): A batch that it takes, shape (N, C, H, W).
    """
    if model not in _PAIRS:
        _PAIRS[model] = _find_pairs(model, images[:_NUM_TRIED])
    with _folded(_PAIRS[model]):
        yield


@contextmanager
def _folded(pairs: list[_Pair]) -> Iterator[None]:
    undo: list[tuple[_Pair, Any, Any]] = []
    try:
        for pair in pairs:
            if not pair.is_free():
                continue
            with torch.no_grad():
                weight, bias = pair.fold()
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


def _identity(images: Tensor) -> Tensor:
    return images


@torch.no_grad()
def _find_pairs(model: nn.Module, images: Tensor) -> list[_Pair]:
    """The pairs of a model that can be folded, maybe none."""
    kinds = [(_is_conv(m), _is_norm(m)) for m in model.modules()]
    if not all(any(kind) for kind in zip(*kinds)):
        return []
    trace = _Trace()
    with trace.watching(model), own_random_stream(images.device):
        expected = model(images)
    pairs = trace.pairs()
    with _folded(pairs), own_random_stream(images.device):
        found = model(images)
    if not isinstance(expected, Tensor):
        return []
    half = expected.dtype in (torch.float16, torch.bfloat16)
    tolerance = (1e-1 if half else 1e-3) * expected.abs().max()
    return pairs if (found - expected).abs().max() <= tolerance else []


def _is_conv(module: nn.Module) -> bool:
    # Not what computes its weights or pads in a way of its own.
    return (
        isinstance(module, nn.Conv2d)
        and type(module).forward is nn.Conv2d.forward
        and isinstance(module._parameters.get('weight'), nn.Parameter)
        and module.weight.shape[0] == module.out_channels
    )


def _is_norm(module: nn.Module) -> bool:
    plain = (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward)
    return (
        isinstance(module, _BatchNorm)
        and type(module).forward in plain
        and module.running_mean is not None
        and module.running_var is not None
    )


@dataclass
class _Trace:
    """Which module read which convolution's output in a forward pass."""

    calls: dict[nn.Module, int] = field(default_factory=dict)
    # The tensors are kept, for ids that are not used again.
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = field(default_factory=dict)
    readers: dict[nn.Conv2d, list[nn.Module]] = field(default_factory=dict)

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Note every call of a module inside."""
        hooks = []
        try:
            for module in model.modules():
                hooks.append(module.register_forward_pre_hook(self._before))
                if _is_conv(module):
                    hooks.append(module.register_forward_hook(self._after))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _before(self, module: nn.Module, args: tuple) -> None:
        self.calls[module] = self.calls.get(module, 0) + 1
        for value in args:
            conv, _ = self.outputs.get(id(value), (None, None))
            if conv is not None:
                self.readers.setdefault(conv, []).append(module)

    def _after(self, module: nn.Conv2d, args: tuple, output: Tensor) -> None:
        self.outputs[id(output)] = (module, output)

    def pairs(self) -> list[_Pair]:
        """Modules that ran once, in a row."""
        return [
            _Pair(conv, readers[0])  # type: ignore[arg-type]
            for conv, readers in self.readers.items()
            if len(readers) == 1
            and _is_norm(readers[0])
            and self.calls[conv] == self.calls[readers[0]] == 1
        ]
