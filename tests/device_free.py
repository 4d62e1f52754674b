"""Training on no device at all: what a GPU would make the host wait for.

On PyTorch's ``meta`` device tensors have shapes and no values: a result that
the host reads raises there, as does an operation on tensors of two devices.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

#: Operations whose result the host reads: on a GPU it waits for them.
READS = '_local_scalar_dense is_nonzero equal nonzero masked_select _unique2'


class HostWaitError(RuntimeError):
    """The host reads, or copies between devices."""


class Watch(TorchDispatchMode):
    """Counts operations; HostWaitError where the host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = str(func).rsplit('.', 1)[0]
        self.calls[name] += 1
        if name == 'aten.convolution_backward' and args[-1][1]:
            self.calls['weight gradient'] += 1
        if name.removeprefix('aten.') in READS.split() or _by_mask(name, args):
            raise HostWaitError(f'{name} is read by the host')
        result = func(*args, **kwargs)
        before, after = _devices((args, kwargs)), _devices(result)
        if len(before | after) > 1:
            raise HostWaitError(f'{name} copies from {before} to {after}')
        return result


def _by_mask(name: str, args: Any) -> bool:
    """Whether a tensor is indexed by a mask: its length must be read."""
    return name in ('aten.index', 'aten.index_put', 'aten.index_put_') and any(
        one is not None and one.dtype == torch.bool for one in args[1]
    )


def _devices(values: Any) -> set[str]:
    """Devices of the tensors inside, but for numbers on the CPU."""
    return {
        value.device.type
        for value in tree_flatten(values)[0]
        if isinstance(value, Tensor) and (value.ndim or value.is_meta)
    }


@contextmanager
def beta_without_values() -> Iterator[None]:
    """PyTorch has no meta kernel for the draws of its Beta distribution."""
    library = torch.library.Library('aten', 'IMPL')
    name, empty = '_sample_dirichlet', torch.empty_like
    library.impl(name, lambda alpha, generator=None: empty(alpha), 'Meta')
    try:
        yield
    finally:
        library._destroy()
