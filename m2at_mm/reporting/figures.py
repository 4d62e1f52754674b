"""The figures of a report, by matplotlib.

Each function takes first the ``name`` of its picture, unique in the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from m2at_mm.reporting.html import (
    TEXT_COLOUR,
    page_style,
    series_colour,
    to_svg,
)
from m2at_mm.reporting.measurement import LossSurface
from m2at_mm.reporting.run_log import Points

#: An accuracy and its 95 % interval, in per cent.
Accuracy = tuple[float, tuple[float, float]]

# Runs are told apart by more than colour.
_LINES = ('solid', 'dashed', 'dashdot', 'dotted')
_MARKERS = ('o', 's', '^', 'D', 'v', 'P')
_BEST = dict(marker='*', linestyle='none')
_LAST = dict(marker='s', linestyle='none', markerfacecolor='none')
_WIDTH, _HEIGHT = 4.0, 2.4  # inches: about as wide as a phone


def _look(number: int) -> dict[str, Any]:
    return dict(
        color=series_colour(number),
        linestyle=_LINES[number % len(_LINES)],
        marker=_MARKERS[number % len(_MARKERS)],
        linewidth=1.6,
        markersize=4,
    )


def _new_figure(width: float, height: float, **labels: Any) -> Any:
    figure = Figure(figsize=(width, height), layout='constrained')
    return figure, figure.add_subplot(**labels)


def _with_legend(figure: Figure, entries: int) -> None:
    """A legend below the axes, with a line per entry."""
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.2 * entries)
    figure.legend(loc='outside lower left', ncols=1, fontsize=8.5)


@page_style
def draw_curves(
    name: str,
    title: str,
    curves: Mapping[str, Points],
    unit: str,
    ylabel: str,
    end: float,
    marks: Mapping[str, tuple[float, float]] | None = None,
) -> Markup:
    """Draw values over the training, with a line per run.

    Args:
        name (str): Name of the picture.
        title (str): Its title.
        curves (Mapping[str, Points]): Value by position, by run.
        unit (str): Unit of the positions.
        ylabel (str): Name of the values.
        end (float): The last position of all runs.
        marks (Mapping[str, tuple], optional): By run, the best and the last
            position. Defaults to None.
    """
    words = [f'{title} by {unit}.']
    figure, axes = _new_figure(
        _WIDTH, _HEIGHT, title=title, xlabel=unit, ylabel=ylabel
    )
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
            best, last = marks[run]
            colour = dict(color=series_colour(number))
            axes.plot(best, points[best], markersize=13, **_BEST, **colour)
            axes.plot(last, points[last], markersize=8, **_LAST, **colour)
            words[-1] += f' Best at {unit} {best:g}, last {last:g}.'
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0, 1.03 * end)
    _widen(axes)
    if marks:
        colour = dict(color=TEXT_COLOUR)
        axes.plot([], [], markersize=10, label='best', **_BEST, **colour)
        axes.plot([], [], markersize=7, label='last', **_LAST, **colour)
    _with_legend(figure, len(axes.get_legend_handles_labels()[0]))
    return to_svg(figure, name, title, ' '.join(words))


def _widen(axes: Any) -> None:
    """Make the scale at least a tenth of the values, against their noise."""
    low, high = axes.get_ylim()
    least = 0.1 * max(abs(low), abs(high))
    if high - low < least:
        middle = (low + high) / 2
        axes.set_ylim(middle - least / 2, middle + least / 2)


def _course(run: str, x: list[float], y: list[float], unit: str) -> str:
    text = f'{run}: {y[-1]:.4g} at {unit} {x[-1]:.3g}'
    if len(y) > 1:
        text += f', from {y[0]:.4g} at {unit} {x[0]:.3g}'
        text += f'; lowest {min(y):.4g}, highest {max(y):.4g}'
    return f'{text}.'


@page_style
def draw_intervals(
    name: str,
    attacks: Sequence[str],
    runs: Mapping[str, Mapping[str, Accuracy]],
) -> Markup:
    """Draw the final accuracies with their intervals, a group per attack.

    Args:
        name (str): Name of the picture.
        attacks (Sequence[str]): The groups.
        runs (Mapping[str, Mapping]): Accuracy by attack, by run; empty for a
            run without results.
    """
    words = ['Accuracy in per cent with 95 % intervals.']
    count = sum(map(bool, runs.values()))
    height = 1.0 + len(attacks) * (0.17 + 0.13 * count)
    figure, axes = _new_figure(_WIDTH, height, xlabel='accuracy (%)')
    shifts = iter((np.arange(count) - (count - 1) / 2) * (0.8 / count))
    for number, (run, found) in enumerate(runs.items()):
        if not found:
            continue
        rows = np.array([attacks.index(attack) for attack in found])
        values, ends = (np.array(part) for part in zip(*found.values()))
        axes.errorbar(
            values,
            rows + next(shifts),
            xerr=abs(ends.T - values),
            label=run,
            capsize=2.5,
            **dict(_look(number), linestyle='none'),
        )
        listed = ', '.join(
            f'{key} {value:.1f} ({low:.1f} to {high:.1f})'
            for key, (value, (low, high)) in found.items()
        )
        words.append(f'{run}: {listed}.')
    axes.set_yticks(range(len(attacks)), attacks)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    _with_legend(figure, count)
    return to_svg(figure, name, 'Final accuracy', ' '.join(words))


@page_style
def draw_sweep(
    name: str, runs: Mapping[str, Mapping[float, Accuracy]]
) -> Markup:
    """Draw accuracy against the radius, clean at 0, with intervals.

    Args:
        name (str): Name of the picture.
        runs (Mapping[str, Mapping]): Accuracy by radius, by run; empty for a
            run that was evaluated at one radius only.
    """
    words = ['Worst-case accuracy in per cent by radius.']
    figure, axes = _new_figure(
        _WIDTH, _HEIGHT + 0.3, xlabel='eps × 255', ylabel='accuracy (%)'
    )
    for number, (run, points) in enumerate(runs.items()):
        if not points:
            continue
        x = [eps * 255 for eps in points]
        y = [value for value, _ in points.values()]
        low, high = zip(*(ends for _, ends in points.values()))
        colour = series_colour(number)
        axes.plot(x, y, label=run, **_look(number))
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        listed = ', '.join(f'{v:.1f} at {e:g}' for e, v in zip(x, y))
        words.append(f'{run}: {listed}.')
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    _with_legend(figure, len(runs))
    return to_svg(figure, name, 'Accuracy against eps', ' '.join(words))


@page_style
def draw_confusion(
    name: str, title: str, counts: np.ndarray, classes: Sequence[str]
) -> Markup:
    """Draw a confusion matrix in per cent of each true class.

    Args:
        name (str): Name of the picture.
        title (str): Its title.
        counts (np.ndarray): Images by true and predicted class, for up to 20
            classes.
        classes (Sequence[str]): Their names.
    """
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = 1.6 + 0.25 * len(classes)
    labels = dict(xlabel='predicted', ylabel='true class')
    labels['title'] = f'{title} (%)'
    figure, axes = _new_figure(size, size - 0.3, **labels)
    axes.grid(visible=False)
    axes.imshow(share, cmap='Blues', vmin=0, vmax=100, interpolation='none')
    for row, column in zip(*np.nonzero(share.round())):
        value = share[row, column]
        colour = 'white' if value > 55 else 'black'
        place = dict(ha='center', va='center', fontsize=7, color=colour)
        axes.text(column, row, f'{value:.0f}', **place)
    axes.set_xticks(range(len(classes)), classes, rotation=90)
    axes.set_yticks(range(len(classes)), classes)
    words = ', '.join(
        f'{label} {share[k, k]:.0f}' for k, label in enumerate(classes)
    )
    return to_svg(figure, name, title, f'Per cent right by class: {words}.')


@page_style
def draw_surface(name: str, title: str, surface: LossSurface) -> Markup:
    """Draw the loss around an image, with the decision boundary."""
    steps, loss, wrong = surface.steps, surface.loss, surface.margin > 0
    along, across = 'along the gradient', 'random direction'
    figure, axes = _new_figure(
        2.7, 3.3, title=title, xlabel=along, ylabel=across, aspect='equal'
    )
    axes.grid(visible=False)
    drawn = axes.contourf(steps, steps, loss, levels=12, cmap='viridis')
    if wrong.any() and not wrong.all():
        for colour, width in (('black', 2.6), ('white', 1.2)):
            line = dict(levels=[0], colors=colour, linewidths=width)
            axes.contour(steps, steps, surface.margin, **line)
    axes.plot(0, 0, marker='+', color='white', markeredgewidth=1.5)
    bar = dict(location='bottom', ticks=MaxNLocator(4))
    figure.colorbar(drawn, ax=axes, label='cross-entropy', **bar)
    middle = len(loss) // 2
    description = (
        f'Cross-entropy {loss[middle, 0]:.3g} one radius against the '
        f'gradient, {loss[middle, middle]:.3g} at the image, '
        f'{loss[middle, -1]:.3g} one radius along it; '
        f'{loss[0, middle]:.3g} to {loss[-1, middle]:.3g} across. '
        f'{100 * wrong.mean():.0f} % of the area is misclassified.'
    )
    return to_svg(figure, name, title, description)
