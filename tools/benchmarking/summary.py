"""The figures of a benchmark: floating-point operations, ratios, a table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode

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
    if not hasattr(flop_counter, 'flop_registry'):  # PyTorch 2.1
        stock = flop_counter.FlopCounterMode(None, display=False)
        with stock:
            iterate()
        return stock.get_total_flops()
    counter = _Counter()  # type: ignore[no-untyped-call]
    with counter:
        iterate()
    return counter.flops


class _Counter(TorchDispatchMode):
    """PyTorch's FlopCounterMode without its hooks on modules.

    They refuse gradients of the images alone. That of 2.1 has none.
    """

    flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_counter.flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


def peak_flops() -> float | None:
    """FLOP/s of the GPU in half precision, None where unknown."""
    if not torch.cuda.is_available():
        return None
    return _PEAKS.get(torch.cuda.get_device_name())


def summarise(
    times: Mapping[str, Sequence[Sequence[float]]],
    batch_size: int,
    peak_memory: Mapping[str, int] | None = None,
    flops: int | None = None,
    peak: float | None = None,
) -> dict[str, Any]:
    """Medians and ratios of interleaved times.

    A ratio is taken in each round, of the medians of two blocks beside each
    other, and its median over the rounds is reported with the range: slow
    changes of the machine cancel out.

    Args:
        times (Mapping[str, Sequence[Sequence[float]]]): By contestant, the
            seconds of each iteration of each round; the others are compared
            with the first.
        batch_size (int): Images in an iteration.
        peak_memory (Mapping[str, int], optional): In bytes, where known.
        flops (int, optional): Of an iteration of the first contestant and of
            the limit; the others make other passes.
        peak (float, optional): FLOP/s of the device.
    """
    contestants: dict[str, dict[str, Any]] = {}
    ratios = {}
    ours = next(iter(times))
    base = [np.median(block) for block in times[ours]]
    for name, rounds in times.items():
        quartiles = np.percentile(np.concatenate(rounds), [25, 50, 75])
        low, median, high = map(float, quartiles)
        contestants[name] = one = dict(seconds=median, quartiles=[low, high])
        one['images_per_second'] = batch_size / median
        if peak_memory and name in peak_memory:
            one['peak_memory_bytes'] = peak_memory[name]
        if flops and peak and name in (ours, 'limit'):
            one['share_of_peak'] = flops / median / peak
        if name != ours:
            medians = [np.median(block) for block in rounds]
            each = [float(one / own) for one, own in zip(medians, base)]
            middle = float(np.median(each))
            ratios[name] = dict(median=middle, range=[min(each), max(each)])
    return dict(contestants=contestants, ratios=ratios)


def to_table(results: Mapping[str, Any]) -> Table:
    """Show what :func:`summarise` gives, a row for each contestant."""
    contestants = results['contestants']
    ours = next(iter(contestants))
    rows = [
        {
            'iteration': name,
            'ms': f'{1000 * one["seconds"]:.0f}',
            'quartiles': '-'.join(f'{1000 * t:.0f}' for t in one['quartiles']),
            'images/s': f'{one["images_per_second"]:.1f}',
            f'time / {ours}': _describe(results['ratios'].get(name)),
            'peak MiB': _shown(one, 'peak_memory_bytes', 2**20),
            '% of peak': _shown(one, 'share_of_peak', 0.01),
        }
        for name, one in contestants.items()
    ]
    known = [key for key in rows[0] if any(row[key] for row in rows)]
    table = Table(title=f'batch of {results["batch_size"]}')
    for k in known:
        table.add_column(k, justify='left' if k == 'iteration' else 'right')
    for row in rows:
        table.add_row(*(row[key] for key in known))
    return table


def _shown(one: Mapping[str, float], key: str, unit: float) -> str:
    return f'{one[key] / unit:.1f}' if key in one else ''


def _describe(ratio: Mapping[str, Any] | None) -> str:
    if ratio is None:
        return '1'
    low, high = ratio['range']
    return f'{ratio["median"]:.3f} ({low:.3f}-{high:.3f})'
