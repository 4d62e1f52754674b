"""The figures of a comparison: its table, its picture, its curves."""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

RESAMPLES = 1000

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
    return [
        name
        for own, name in sorted(points)
        if not any(
            o != own and o[0] >= own[0] and o[1] >= own[1] for o, _ in points
        )
    ]


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
    curves: Mapping[str, Collection[str]] | None = None,
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
    for name, names in groups.items():
        parts = [by_name[one] for one in names]
        parts.sort(key=lambda entry: entry.mean['clean'])
        x, y = ([e.mean[k] for e in parts] for k in ('clean', robust))
        dx, dy = ([e.spread[k] for e in parts] for k in ('clean', robust))
        look = dict(linestyle='-' if len(parts) > 1 else '', capsize=2)
        look |= dict(marker=next(markers), label=name)
        axes.errorbar(x, y, dy, dx, **look)
    axes.set_xlabel('clean accuracy (%)')
    axes.set_ylabel(f'{robust.replace("_", " ")} accuracy (%)')
    figure.legend(loc='outside right center')
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def correct_images(predictions: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which images of ``results.samples.npz`` are classified correctly.

    Returns:
        np.ndarray: bool of shape (2, N), clean and in the worst case.
    """
    correct = {
        name: predicted == predictions['label']
        for name, predicted in predictions.items()
        if name not in ('index', 'label')
    }
    return np.stack([correct['clean'], np.all([*correct.values()], axis=0)])


def hypervolume(
    clean: np.ndarray, worst: np.ndarray, between: tuple[float, float]
) -> np.ndarray:
    """The area below a Pareto front, over its width.

    It is the worst-case accuracy that a curve gives at a clean accuracy that
    is asked for, or a higher one, on average over all between two.

    Args:
        clean (np.ndarray): Clean accuracies of the points, in per cent, of
            shape (..., P).
        worst (np.ndarray): Their worst-case accuracies, of the same shape.
        between (tuple[float, float]): The lowest and the highest clean
            accuracy that is asked for.

    Returns:
        np.ndarray: In per cent, of shape (...).
    """
    order = np.argsort(clean, axis=-1)
    clean, worst = (np.take_along_axis(a, order, -1) for a in (clean, worst))
    # The best of the points to the right, from each point down to the next.
    best = np.maximum.accumulate(worst[..., ::-1], axis=-1)[..., ::-1]
    widths = np.diff(np.clip(clean, *between), axis=-1, prepend=between[0])
    area: np.ndarray = (widths * best).sum(-1) / (between[1] - between[0])
    return area


def make_curves(
    points: Mapping[str, Collection[str]],
    entries: Sequence[Entry],
    correct: Mapping[str, Sequence[np.ndarray]],
    between: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """What each curve is worth, with intervals over images and seeds.

    Args:
        points (Mapping[str, Collection[str]]): By curve the names of its runs.
        entries (Sequence[Entry]): The figures of all runs.
        correct (Mapping[str, Sequence[np.ndarray]]): By run and seed
            :func:`correct_images`, of the same images for all.
        between (tuple[float, float], optional): See :class:`Plan`.

    Returns:
        dict[str, Any]: ``between``, and by curve in ``curves``: ``points``,
        the runs in the order of the plan; ``dominated``, those that a run of
        any curve beats in both accuracies; ``hypervolume``; ``interval``, 95 %
        of it over images and seeds; and ``largest``, the share in per cent of
        the resamples in which no other curve has a larger one.
    """
    on_curves = [name for names in points.values() for name in names]
    joined = [entry for entry in entries if entry.name in on_curves]
    means = {entry.name: entry.mean for entry in joined}
    every = [mean['clean'] for mean in means.values()]
    between = between or (min(every), max(every))
    front = pareto_front(joined, 'worst_case')
    resampled = _resampled({name: correct[name] for name in on_curves})
    curves, drawn = {}, {}
    for curve, names in points.items():
        figures = ('clean', 'worst_case')
        exact = np.array([[means[n][key] for n in names] for key in figures])
        draws = np.stack([resampled[name] for name in names], -1)
        drawn[curve] = hypervolume(draws[0], draws[1], between)
        curves[curve] = dict(
            points=list(names),
            dominated=[name for name in names if name not in front],
            hypervolume=float(hypervolume(exact[0], exact[1], between)),
            interval=np.percentile(drawn[curve], [2.5, 97.5]).tolist(),
        )
    largest = np.max([*drawn.values()], axis=0)
    for curve, found in drawn.items():
        curves[curve]['largest'] = 100 * float(np.mean(found == largest))
    return dict(between=list(between), curves=curves)


def _resampled(correct: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Accuracies, (2, RESAMPLES); all runs share their draws of images."""
    rng = np.random.default_rng(0)
    num = next(iter(correct.values()))[0].shape[1]
    weights = rng.multinomial(num, np.full(num, 1 / num), RESAMPLES) / num
    found = {}
    for name, seeds in correct.items():
        each = 100 * np.stack(seeds) @ weights.T  # (seeds, 2, RESAMPLES)
        count = len(seeds)
        shares = rng.multinomial(count, [1 / count] * count, RESAMPLES)
        found[name] = np.einsum('skr,rs->kr', each, shares / count)
    return found
