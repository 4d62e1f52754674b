"""Floating-point operations of an iteration, and what a GPU can do."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

# Dense, in float16 or bfloat16 on tensor cores, as the vendor states them, by
# the name that PyTorch gives. Other variants of a chip have other peaks.
_PEAKS = {
    'NVIDIA H200': 989e12,
    'NVIDIA H100 80GB HBM3': 989e12,
    'NVIDIA A100-SXM4-40GB': 312e12,
    'NVIDIA A100-SXM4-80GB': 312e12,
}


def count_flops(iterate: Callable[[], Any]) -> int:
    """Run an iteration and count its multiplications and additions.

    Those of convolutions and matrix products, by PyTorch's formulas.
    """
    counter = _Counter()  # type: ignore[no-untyped-call]
    with counter:
        iterate()
    return counter.flops


class _Counter(TorchDispatchMode):
    """PyTorch's FlopCounterMode without its hooks on modules.

    They refuse gradients of the images alone.
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


def peak_flops() -> float | None:
    """FLOP/s of the GPU in half precision, None where unknown."""
    if not torch.cuda.is_available():
        return None
    return _PEAKS.get(torch.cuda.get_device_name())
