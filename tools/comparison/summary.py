"""The table and the picture of a comparison."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

MARKERS = 'osD^v<>PX'


@dataclass(frozen=True)
class Entry:
    """A method's figures over the seeds, in per cent.

    ``mean`` has ``'clean'``, each attack and ``'worst_case'``; ``spread`` is
    half of the range over the seeds.
    """

    name: str
    seeds: int
    mean: dict[str, float]
    spread: dict[str, float]

    def show(self, figure: str) -> str:
        """Mean and spread of a figure, like ``'52.1 ± 0.3'``."""
        spread = f' ± {self.spread[figure]:.1f}' if self.seeds > 1 else ''
        return f'{self.mean[figure]:.1f}{spread}'


def summarise(results: Mapping[str, Sequence[dict[str, Any]]]) -> list[Entry]:
    """Average the ``results.json`` of each method over its seeds, if any."""
    entries = []
    for name, runs in results.items():
        values: dict[str, list[float]] = {}
        for run in runs:
            worst = dict(worst_case=run['worst_case'])
            figures = {'clean': run['clean'], **run['attacks'], **worst}
            for key, value in figures.items():
                values.setdefault(key, []).append(value)
        if runs:
            mean = {key: float(np.mean(v)) for key, v in values.items()}
            spread = {key: float(np.ptp(v)) / 2 for key, v in values.items()}
            entries.append(Entry(name, len(runs), mean, spread))
    return entries


def pareto_front(entries: Sequence[Entry], robust: str) -> list[str]:
    """Names of the methods that no other beats in both accuracies.

    They come by rising clean accuracy. ``robust`` is the figure for
    robustness, like ``'worst_case'``.
    """
    points = [((e.mean['clean'], e.mean[robust]), e.name) for e in entries]
    front = [
        (own[0], name)
        for own, name in points
        if not any(
            other[0] >= own[0] and other[1] >= own[1] and other != own
            for other, _ in points
        )
    ]
    return [name for _, name in sorted(front)]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ['---'] * len(head), *rows]
    return ''.join('| ' + ' | '.join(line) + ' |\n' for line in lines)


def to_markdown(entries: Sequence[Entry]) -> str:
    """A table: a row per method, and on the front of which attacks it is."""
    clean, *robust = entries[0].mean
    fronts = {figure: pareto_front(entries, figure) for figure in robust}
    rows = []
    for one in entries:
        shown = map(one.show, (clean, *robust))
        on = ', '.join(f for f in fronts if one.name in fronts[f]) or '-'
        rows.append([one.name, str(one.seeds), *shown, on])
    head = ['method', 'seeds', clean, *robust, 'on the front of']
    return markdown_table(head, rows)


def curves_to_markdown(curves: dict[str, Any]) -> str:
    """A table of what :func:`make_curves` found, a row per curve."""
    rows = [
        [
            name,
            ', '.join(curve['points']),
            ', '.join(curve['dominated']) or '-',
            f'{curve["hypervolume"]:.1f}',
            '{:.1f} to {:.1f}'.format(*curve['interval']),
            f'{curve["largest"]:.0f} %',
        ]
        for name, curve in curves['curves'].items()
    ]
    low, high = curves['between']
    head = f'hypervolume from {low:.1f} to {high:.1f} % clean'
    return markdown_table(
        ['curve', 'points', 'dominated', head, '95 % interval', 'largest in'],
        rows,
    )


def plot_trade_off(
    entries: Sequence[Entry],
    path: Path,
    curves: Mapping[str, Sequence[str]] | None = None,
    robust: str = 'worst_case',
) -> None:
    """Draw clean against robust accuracy, with the Pareto front, as a PNG.

    The runs of a curve are joined; each other run has a marker of its own.
    """
    figure = Figure(figsize=(8, 5), dpi=120, layout='constrained')
    axes: Any = figure.add_subplot()
    by_name = {entry.name: entry for entry in entries}
    front = [by_name[name].mean for name in pareto_front(entries, robust)]
    points = zip(*((mean['clean'], mean[robust]) for mean in front))
    line = dict(color='tab:gray', linestyle='--', zorder=1)
    axes.plot(*points, label='Pareto front', **line)
    groups = {name: [*names] for name, names in (curves or {}).items()}
    joined = {name for names in groups.values() for name in names}
    groups |= {name: [name] for name in by_name if name not in joined}
    # Names stand beside the axes: close points would hide them.
    markers = itertools.cycle(MARKERS)
    for label, names in groups.items():
        parts = sorted((by_name[name] for name in names), key=_clean)
        x, y = ([e.mean[k] for e in parts] for k in ('clean', robust))
        spread = dict(
            xerr=[e.spread['clean'] for e in parts],
            yerr=[e.spread[robust] for e in parts],
        )
        look = dict(linestyle='-' if len(parts) > 1 else '', capsize=2)
        axes.errorbar(
            x, y, **spread, **look, marker=next(markers), label=label
        )
    axes.set_xlabel('clean accuracy (%)')
    axes.set_ylabel(f'{robust.replace("_", " ")} accuracy (%)')
    figure.legend(loc='outside right center')
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _clean(entry: Entry) -> float:
    return entry.mean['clean']
