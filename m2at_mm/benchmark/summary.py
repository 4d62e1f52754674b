"""The figures of a benchmark, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table


def summarise(
    times: Mapping[str, Sequence[Sequence[float]]],
    batch_size: int,
    peak_memory: Mapping[str, int],
    flops: int | None = None,
    peak: float | None = None,
) -> dict[str, Any]:
    """Medians and ratios of interleaved times.

    A ratio is taken in each round, of the medians of two blocks beside each
    other, and its median over the rounds is reported with the range: what
    changes slowly on the machine falls out.

    Args:
        times (Mapping[str, Sequence[Sequence[float]]]): By contestant, the
            seconds of each iteration of each round; the first is compared
            with the others.
        batch_size (int): Images in an iteration.
        peak_memory (Mapping[str, int]): In bytes, where known.
        flops (int, optional): Of an iteration of the first and of the limit;
            the others make other passes. Defaults to None, unknown.
        peak (float, optional): FLOP/s of the device. Defaults to None,
            unknown.

    Returns:
        dict: ``contestants`` and ``ratios``, by name.
    """
    contestants = {}
    ours = next(iter(times))
    for name, rounds in times.items():
        flat = np.concatenate([np.asarray(one) for one in rounds])
        low, median, high = np.percentile(flat, [25, 50, 75])
        contestants[name] = dict(
            seconds=float(median),
            quartiles=[float(low), float(high)],
            images_per_second=batch_size / float(median),
        )
        if name in peak_memory:
            contestants[name]['peak_memory_bytes'] = peak_memory[name]
        if flops and peak and name in (ours, 'limit'):
            contestants[name]['share_of_peak'] = flops / float(median) / peak
    ratios = {
        name: _ratio(times[name], times[ours])
        for name in times
        if name != ours
    }
    return dict(contestants=contestants, ratios=ratios)


def _ratio(
    first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """Of the seconds in each round: the median, and the range."""
    each = [
        float(np.median(one) / np.median(other))
        for one, other in zip(first, second)
    ]
    return dict(median=float(np.median(each)), range=[min(each), max(each)])


def to_table(results: Mapping[str, Any]) -> Table:
    """What :func:`summarise` gives, for a terminal.

    Args:
        results (Mapping): As written to JSON.

    Returns:
        Table: A row for each contestant.
    """
    contestants = results['contestants']
    ours = next(iter(contestants))
    table = Table(title=f'batch of {results["batch_size"]}')
    table.add_column('iteration')
    for heading in ('ms', 'quartiles', 'images/s', f'time / {ours}'):
        table.add_column(heading, justify='right')
    extra = [
        (key, heading, unit)
        for key, heading, unit in (
            ('peak_memory_bytes', 'peak MiB', 2**20),
            ('share_of_peak', '% of peak', 0.01),
        )
        if any(key in one for one in contestants.values())
    ]
    for _, heading, _ in extra:
        table.add_column(heading, justify='right')
    for name, one in contestants.items():
        ratio = results['ratios'].get(name)
        low, high = one['quartiles']
        table.add_row(
            name,
            f'{1000 * one["seconds"]:.0f}',
            f'{1000 * low:.0f}-{1000 * high:.0f}',
            f'{one["images_per_second"]:.1f}',
            '1' if ratio is None else _describe(ratio),
            *(
                f'{one[key] / unit:.1f}' if key in one else ''
                for key, _, unit in extra
            ),
        )
    return table


def _describe(ratio: Mapping[str, Any]) -> str:
    low, high = ratio['range']
    return f'{ratio["median"]:.3f} ({low:.3f}-{high:.3f})'
