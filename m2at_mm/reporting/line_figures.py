"""Curves and accuracies of the runs, by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from m2at_mm.reporting.accuracy import (
    Accuracy,
    accuracies,
    shown_attacks,
    sweep_points,
)
from m2at_mm.reporting.inline_svg import (
    TEXT_COLOUR,
    page_style,
    series_colour,
    to_svg,
)
from m2at_mm.reporting.run_log import Points

# Runs are told apart by more than colour.
_LINES = ('solid', 'dashed', 'dashdot', 'dotted')
_MARKERS = ('o', 's', '^', 'D', 'v', 'P')
_WIDTH, _HEIGHT = 4.0, 2.4  # inches: about as wide as a phone


def _look(number: int) -> dict[str, Any]:
    return dict(
        color=series_colour(number),
        linestyle=_LINES[number % len(_LINES)],
        marker=_MARKERS[number % len(_MARKERS)],
        linewidth=1.6,
        markersize=4,
    )


def _with_legend(figure: Figure, entries: int) -> None:
    """A legend below the axes, with a line per entry."""
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.2 * entries)
    figure.legend(loc='outside lower left', ncols=1, fontsize=8.5)


def draw_curves(
    name: str,
    title: str,
    curves: Mapping[str, Points],
    unit: str,
    ylabel: str,
    end: float,
    marks: Mapping[str, tuple[float, float]] | None = None,
) -> Markup:
    """Draw a figure's course over the training, with a line per run.

    Args:
        name (str): Of the picture, unique in the page.
        title (str): Above it.
        curves (Mapping[str, Points]): Value by position, by run.
        unit (str): Of the positions.
        ylabel (str): Of the values.
        end (float): The last position of all runs.
        marks (Mapping[str, tuple], optional): By run, the best and the last
            position. Defaults to None.
    """
    words = [f'{title} by {unit}.']
    with page_style():
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout='constrained')
        axes = figure.add_subplot()
        for number, (run, points) in enumerate(curves.items()):
            if not points:
                continue
            x = sorted(points)
            y = [points[position] for position in x]
            look = _look(number)
            if len(x) > 40:
                look.update(marker='', linewidth=1.1)
            axes.plot(x, y, label=run, **look)
            words.append(_course(run, x, y, unit))
            if marks and run in marks:
                _mark(axes, points, marks[run], number)
                best, last = marks[run]
                words[-1] += f' Best at {unit} {best:g}, last {last:g}.'
        axes.set_title(title)
        axes.set_xlabel(unit)
        axes.set_ylabel(ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(0, 1.03 * end)
        _widen(axes)
        entries = len(axes.get_legend_handles_labels()[0])
        if marks:
            _explain_marks(axes)
            entries += 2
        _with_legend(figure, entries)
    return to_svg(figure, name, title, ' '.join(words))


def _widen(axes: Any) -> None:
    """A scale of a tenth of the values at least, not of their noise."""
    low, high = axes.get_ylim()
    least = 0.1 * max(abs(low), abs(high))
    if high - low < least:
        middle = (low + high) / 2
        axes.set_ylim(middle - least / 2, middle + least / 2)


def _course(
    run: str, x: Sequence[float], y: Sequence[float], unit: str
) -> str:
    at = f'{run}: {y[-1]:.4g} at {unit} {x[-1]:.3g}'
    if len(y) == 1:
        return f'{at}.'
    return (
        f'{at}, from {y[0]:.4g} at {unit} {x[0]:.3g}; lowest {min(y):.4g}, '
        f'highest {max(y):.4g}.'
    )


def _mark(
    axes: Any, points: Points, at: tuple[float, float], number: int
) -> None:
    best, last = at
    for position, marker, size in ((best, '*', 13), (last, 's', 8)):
        axes.plot(
            position,
            points[position],
            marker=marker,
            markersize=size,
            markerfacecolor='none' if marker == 's' else series_colour(number),
            markeredgecolor=series_colour(number),
            linestyle='none',
        )


def _explain_marks(axes: Any) -> None:
    for marker, size, label in (('*', 10, 'best'), ('s', 7, 'last')):
        axes.plot(
            [],
            [],
            marker=marker,
            markersize=size,
            color=TEXT_COLOUR,
            markerfacecolor='none' if marker == 's' else TEXT_COLOUR,
            linestyle='none',
            label=label,
        )


def draw_intervals(
    name: str, results: Mapping[str, Mapping[str, Any] | None]
) -> Markup:
    """Draw the final accuracies with their intervals, a group per attack.

    Args:
        name (str): Of the picture, unique in the page.
        results (Mapping[str, Mapping]): ``results.json`` by run, None where
            there is none.
    """
    given = {run: one for run, one in results.items() if one is not None}
    attacks = shown_attacks(given.values())
    words = ['Accuracy in per cent with 95 % intervals.']
    room = 0.8 / len(given)
    with page_style():
        height = 1.0 + len(attacks) * (0.17 + 0.13 * len(given))
        figure = Figure(figsize=(_WIDTH, height), layout='constrained')
        axes = figure.add_subplot()
        place = 0
        for number, (run, one) in enumerate(results.items()):
            if one is None:
                continue
            found = accuracies(one)
            rows = [k for k, attack in enumerate(attacks) if attack in found]
            x = [found[attacks[k]][0] for k in rows]
            ends = [found[attacks[k]][1] for k in rows]
            shift = (place - (len(given) - 1) / 2) * room
            place += 1
            axes.errorbar(
                x,
                [k + shift for k in rows],
                xerr=[
                    [value - low for value, (low, _) in zip(x, ends)],
                    [high - value for value, (_, high) in zip(x, ends)],
                ],
                label=run,
                capsize=2.5,
                **dict(_look(number), linestyle='none'),
            )
            words.append(f'{run}: {_list(found)}.')
        axes.set_yticks(range(len(attacks)), attacks)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel('accuracy (%)')
        _with_legend(figure, len(given))
    title = 'Final accuracy'
    return to_svg(figure, name, title, ' '.join(words))


def _list(found: Mapping[str, Accuracy]) -> str:
    return ', '.join(
        f'{key} {value:.1f} ({low:.1f} to {high:.1f})'
        for key, (value, (low, high)) in found.items()
    )


def draw_sweep(
    name: str, sweeps: Mapping[str, Mapping[str, Any] | None]
) -> Markup:
    """Draw accuracy against the radius, clean at 0, with intervals.

    Args:
        name (str): Of the picture, unique in the page.
        sweeps (Mapping[str, Mapping]): By run, results with ``sweep``, None
            where there are none.
    """
    words = ['Worst-case accuracy in per cent by radius.']
    with page_style():
        figure = Figure(figsize=(_WIDTH, _HEIGHT + 0.3), layout='constrained')
        axes = figure.add_subplot()
        for number, (run, results) in enumerate(sweeps.items()):
            if results is None:
                continue
            points = sweep_points(results)
            x = [eps * 255 for eps in points]
            y = [value for value, _ in points.values()]
            axes.plot(x, y, label=run, **_look(number))
            axes.fill_between(
                x,
                [low for _, (low, _) in points.values()],
                [high for _, (_, high) in points.values()],
                color=series_colour(number),
                alpha=0.15,
                linewidth=0,
            )
            listed = ', '.join(f'{v:.1f} at {e:g}' for e, v in zip(x, y))
            words.append(f'{run}: {listed}.')
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.set_xlabel('eps × 255')
        axes.set_ylabel('accuracy (%)')
        _with_legend(figure, len(sweeps))
    title = 'Accuracy against eps'
    return to_svg(figure, name, title, ' '.join(words))
