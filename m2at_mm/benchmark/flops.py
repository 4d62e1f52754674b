"""Floating-point operations of an iteration, and what a GPU can do."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from m2at_mm.benchmark.contestants import Limit

# Dense, in float16 or bfloat16 on tensor cores, as the vendor states them, by
# the name that PyTorch gives. Other variants of a chip have other peaks.
_PEAKS = {
    'NVIDIA H200': 989e12,
    'NVIDIA H100 80GB HBM3': 989e12,
    'NVIDIA A100-SXM4-40GB': 312e12,
    'NVIDIA A100-SXM4-80GB': 312e12,
}


def flops_per_iteration(limit: Limit) -> int:
    """Run an iteration and count the operations of its passes.

    Args:
        limit (Limit): Runs an iteration.

    Returns:
        int: Multiplications and additions in convolutions and matrix
        products, as PyTorch counts them.
    """
    counter = _Counter()  # type: ignore[no-untyped-call]
    with counter:
        limit.iterate()
    return counter.flops


class _Counter(TorchDispatchMode):
    """Counts with PyTorch's formulas.

    Its own FlopCounterMode also follows modules, with hooks that refuse
    gradients of the images alone.
    """

    flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


def peak_flops(device: torch.device) -> float | None:
    """What a GPU can do in half precision.

    Args:
        device (torch.device): Any.

    Returns:
        float, optional: FLOP/s, None if unknown.
    """
    if device.type != 'cuda':
        return None
    return _PEAKS.get(torch.cuda.get_device_name(device))
