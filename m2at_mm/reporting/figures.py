"""The figures of a report, by matplotlib.

Each function takes first the ``name`` of its picture, unique in the page.
Mappings are by the name of a run, and empty for a run without values.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from m2at_mm.reporting import html
from m2at_mm.reporting.measurement import LossSurface
from m2at_mm.reporting.run_log import Points

#: An accuracy and its 95 % interval, in per cent.
Accuracy = tuple[float, tuple[float, float]]
_Values = TypeVar('_Values', bound=Mapping[Any, Any])

# Runs are told apart by more than colour.
_LINES = ('solid', 'dashed', 'dashdot', 'dotted')
_MARKERS = ('o', 's', '^', 'D', 'v', 'P')
_BEST = dict(marker='*', linestyle='none')
_LAST = dict(marker='s', linestyle='none', markerfacecolor='none')
_WIDTH = 4.0  # inches: about as wide as a phone


def _looks(
    runs: Mapping[str, _Values],
) -> Iterator[tuple[str, _Values, dict[str, Any]]]:
    """The runs with values, and how their lines look."""
    for number, (run, values) in enumerate(runs.items()):
        if values:
            look = dict(color=html.series_colour(number), linewidth=1.6)
            look['linestyle'] = _LINES[number % len(_LINES)]
            look['marker'] = _MARKERS[number % len(_MARKERS)]
            yield run, values, dict(look, markersize=4)


def _new_figure(width: float, height: float, **labels: Any) -> Any:
    figure = Figure(figsize=(width, height), layout='constrained')
    return figure, figure.add_subplot(**labels)


def _with_legend(figure: Figure, entries: int) -> None:
    """A legend below the axes, with a line per entry."""
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.2 * entries)
    figure.legend(loc='outside lower left', ncols=1, fontsize=8.5)


@html.page_style
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

    ``end`` is the last position of all runs, in the unit. ``marks`` gives the
    best and the last position of some runs.
    """
    words = [f'{title} by {unit}.']
    labels = dict(title=title, xlabel=unit, ylabel=ylabel)
    figure, axes = _new_figure(_WIDTH, 2.4, **labels)
    for run, points, look in _looks(curves):
        x = sorted(points)
        y = [points[position] for position in x]
        thin = dict(marker='', linewidth=1.1) if len(x) > 40 else {}
        axes.plot(x, y, label=run, **look | thin)
        words.append(_course(run, x, y, unit))
        if marks and run in marks:
            best, last = marks[run]
            colour = dict(color=look['color'])
            axes.plot(best, points[best], markersize=13, **_BEST, **colour)
            axes.plot(last, points[last], markersize=8, **_LAST, **colour)
            words[-1] += f' Best at {unit} {best:g}, last {last:g}.'
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0, 1.03 * end)
    # At least a tenth of the values is shown, against their noise.
    low, high = axes.get_ylim()
    least, middle = 0.05 * max(abs(low), abs(high)), (low + high) / 2
    axes.set_ylim(min(low, middle - least), max(high, middle + least))
    if marks:
        colour = dict(color=html.TEXT_COLOUR)
        axes.plot([], [], markersize=10, label='best', **_BEST, **colour)
        axes.plot([], [], markersize=7, label='last', **_LAST, **colour)
    _with_legend(figure, len(axes.get_legend_handles_labels()[0]))
    return html.to_svg(figure, name, title, ' '.join(words))


def _course(run: str, x: list[float], y: list[float], unit: str) -> str:
    text = f'{run}: {y[-1]:.4g} at {unit} {x[-1]:.3g}'
    if len(y) > 1:
        text += f', from {y[0]:.4g} at {unit} {x[0]:.3g}'
        text += f'; lowest {min(y):.4g}, highest {max(y):.4g}'
    return f'{text}.'


@html.page_style
def draw_intervals(
    name: str,
    attacks: Sequence[str],
    runs: Mapping[str, Mapping[str, Accuracy]],
) -> Markup:
    """Draw accuracies by attack with their intervals, a group per attack."""
    words = ['Accuracy in per cent with 95 % intervals.']
    count = sum(map(bool, runs.values()))
    height = 1.0 + len(attacks) * (0.17 + 0.13 * count)
    figure, axes = _new_figure(_WIDTH, height, xlabel='accuracy (%)')
    shifts = (np.arange(count) - (count - 1) / 2) * (0.8 / count)
    for shift, (run, found, look) in zip(shifts, _looks(runs)):
        rows = np.array([attacks.index(attack) for attack in found])
        values, ends = (np.array(part) for part in zip(*found.values()))
        look.update(linestyle='none', capsize=2.5, xerr=abs(ends.T - values))
        axes.errorbar(values, rows + shift, label=run, **look)
        text = '{} {:.1f} ({:.1f} to {:.1f})'
        each = (text.format(k, v, *ends) for k, (v, ends) in found.items())
        words.append(f'{run}: {", ".join(each)}.')
    axes.set_yticks(range(len(attacks)), attacks)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    _with_legend(figure, count)
    return html.to_svg(figure, name, 'Final accuracy', ' '.join(words))


@html.page_style
def draw_sweep(
    name: str, runs: Mapping[str, Mapping[float, Accuracy]]
) -> Markup:
    """Draw accuracy against the radius, clean at 0, with intervals."""
    words = ['Worst-case accuracy in per cent by radius.']
    labels = dict(xlabel='eps × 255', ylabel='accuracy (%)')
    figure, axes = _new_figure(_WIDTH, 2.7, **labels)
    for run, points, look in _looks(runs):
        x = [eps * 255 for eps in points]
        y, ends = zip(*points.values())
        axes.plot(x, y, label=run, **look)
        band = dict(color=look['color'], alpha=0.15, linewidth=0)
        axes.fill_between(x, *zip(*ends), **band)
        listed = ', '.join(f'{v:.1f} at {e:g}' for e, v in zip(x, y))
        words.append(f'{run}: {listed}.')
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    _with_legend(figure, len(runs))
    return html.to_svg(figure, name, 'Accuracy against eps', ' '.join(words))


@html.page_style
def draw_confusion(
    name: str, title: str, counts: np.ndarray, classes: Sequence[str]
) -> Markup:
    """Draw a confusion matrix in per cent of each true class.

    The counts are images by true and predicted class, for up to 20 classes.
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
    each = (f'{label} {share[k, k]:.0f}' for k, label in enumerate(classes))
    words = f'Per cent right by class: {", ".join(each)}.'
    return html.to_svg(figure, name, title, words)


@html.page_style
def draw_surface(name: str, title: str, surface: LossSurface) -> Markup:
    """Draw the loss around an image, with the decision boundary."""
    steps, loss, wrong = surface.steps, surface.loss, surface.margin > 0
    labels = dict(xlabel='along the gradient', ylabel='random direction')
    labels |= dict(title=title, aspect='equal')
    figure, axes = _new_figure(2.7, 3.3, **labels)
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
    row, column = loss[middle], loss[:, middle]
    description = (
        f'Cross-entropy {row[0]:.3g} one radius against the gradient, '
        f'{row[middle]:.3g} at the image, {row[-1]:.3g} one radius along it; '
        f'{column[0]:.3g} to {column[-1]:.3g} across. '
        f'{100 * wrong.mean():.0f} % of the area is misclassified.'
    )
    return html.to_svg(figure, name, title, description)
