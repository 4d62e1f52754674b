"""The table and the picture of a comparison."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MARKERS = 'osD^v<>PX'


@dataclass(frozen=True)
class Entry:
    """A method's figures over the seeds.

    Attributes:
        name (str): Of the method.
        seeds (int): How many runs are finished.
        mean (dict[str, float]): ``clean``, each attack and ``worst_case``, in
            per cent.
        spread (dict[str, float]): Half of the range over the seeds, in points.
    """

    name: str
    seeds: int
    mean: dict[str, float]
    spread: dict[str, float]


def summarise(
    results: Mapping[str, Sequence[dict[str, Any]]],
) -> list[Entry]:
    """Average the results of each method.

    Args:
        results (Mapping[str, Sequence[dict]]): By method, the
            ``results.json`` of each seed.

    Returns:
        list[Entry]: Methods without a result are left out.
    """
    entries = []
    for name, runs in results.items():
        if not runs:
            continue
        figures = [
            dict(
                clean=run['clean'],
                **run['attacks'],
                worst_case=run['worst_case'],
            )
            for run in runs
        ]
        mean, spread = {}, {}
        for figure in figures[0]:
            values = [one[figure] for one in figures]
            mean[figure] = float(np.mean(values))
            spread[figure] = (max(values) - min(values)) / 2
        entries.append(Entry(name, len(runs), mean, spread))
    return entries


def pareto_front(entries: Sequence[Entry], robust: str) -> list[str]:
    """Methods that no other beats in clean and robust accuracy alike.

    Args:
        entries (Sequence[Entry]): The methods.
        robust (str): The figure for robustness, like ``'worst_case'``.

    Returns:
        list[str]: Names, by rising clean accuracy.
    """
    front = []
    for entry in entries:
        own = (entry.mean['clean'], entry.mean[robust])
        others = [
            (other.mean['clean'], other.mean[robust])
            for other in entries
            if other is not entry
        ]
        dominated = any(
            clean >= own[0] and value >= own[1] and (clean, value) != own
            for clean, value in others
        )
        if not dominated:
            front.append((own[0], entry.name))
    return [name for _, name in sorted(front)]


def to_markdown(entries: Sequence[Entry]) -> str:
    """A table: mean and half range per figure, and who is on which front.

    Args:
        entries (Sequence[Entry]): The methods, at least one.

    Returns:
        str: Markdown, a row per method, accuracies in per cent.
    """
    figures = list(entries[0].mean)
    fronts = {
        figure: pareto_front(entries, figure)
        for figure in figures
        if figure != 'clean'
    }
    heads = ['method', 'seeds', *figures, 'on the front of']
    lines = [
        '| ' + ' | '.join(heads) + ' |',
        '| ' + ' | '.join('---' for _ in heads) + ' |',
    ]
    for entry in entries:
        cells = [entry.name, str(entry.seeds)]
        for figure in figures:
            cell = f'{entry.mean[figure]:.1f}'
            if entry.seeds > 1:
                cell += f' ± {entry.spread[figure]:.1f}'
            cells.append(cell)
        cells.append(
            ', '.join(f for f in fronts if entry.name in fronts[f]) or '-'
        )
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


def plot_trade_off(
    entries: Sequence[Entry], path: Path, robust: str = 'worst_case'
) -> None:
    """Draw clean against robust accuracy, with the Pareto front.

    Args:
        entries (Sequence[Entry]): The methods.
        path (Path): PNG file. Its folder is made.
        robust (str): The figure for robustness. Defaults to
            ``'worst_case'``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout='constrained')
    axes = figure.add_subplot()
    by_name = {entry.name: entry for entry in entries}
    front = [by_name[name] for name in pareto_front(entries, robust)]
    axes.plot(
        [entry.mean['clean'] for entry in front],
        [entry.mean[robust] for entry in front],
        color='tab:gray',
        linestyle='--',
        label='Pareto front',
        zorder=1,
    )
    # Names stand beside the axes: points that are close would hide them.
    for entry, marker in zip(entries, itertools.cycle(MARKERS)):
        axes.errorbar(
            entry.mean['clean'],
            entry.mean[robust],
            xerr=entry.spread['clean'],
            yerr=entry.spread[robust],
            linestyle='',
            marker=marker,
            capsize=2,
            label=entry.name,
        )
    axes.set_xlabel('clean accuracy (%)')
    axes.set_ylabel(f'{robust.replace("_", " ")} accuracy (%)')
    figure.legend(loc='outside right center')
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
