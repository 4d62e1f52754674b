"""Confusion matrices and loss surfaces, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from m2at_mm.reporting.inline_svg import page_style, to_svg
from m2at_mm.reporting.loss_surface import LossSurface

#: Classes whose names and counts a confusion matrix has room for.
MOST_CLASSES = 20


def draw_confusion(
    name: str, title: str, counts: np.ndarray, classes: Sequence[str]
) -> Markup:
    """Draw a confusion matrix in per cent of each true class.

    Args:
        name (str): Of the picture, unique in the page.
        title (str): Above it.
        counts (np.ndarray): Of :func:`confusion`, for at most
            :data:`MOST_CLASSES` classes.
        classes (Sequence[str]): Their names.
    """
    totals = counts.sum(1, keepdims=True)
    share = 100 * counts / np.maximum(totals, 1)
    with page_style():
        size = 1.6 + 0.25 * len(classes)
        figure = Figure(figsize=(size, size - 0.3), layout='constrained')
        axes = figure.add_subplot()
        axes.grid(visible=False)
        axes.imshow(
            share, cmap='Blues', vmin=0, vmax=100, interpolation='none'
        )
        for row, column in zip(*np.nonzero(share.round())):
            value = share[row, column]
            axes.text(
                column,
                row,
                f'{value:.0f}',
                ha='center',
                va='center',
                fontsize=7,
                color='white' if value > 55 else 'black',
            )
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
        axes.set_xlabel('predicted')
        axes.set_ylabel('true class')
        axes.set_title(f'{title} (%)')
    words = ', '.join(
        f'{label} {share[k, k]:.0f}' for k, label in enumerate(classes)
    )
    description = f'Per cent right by class: {words}.'
    return to_svg(figure, name, title, description)


def draw_surface(name: str, title: str, surface: LossSurface) -> Markup:
    """Draw the loss around an image, with the decision boundary.

    Args:
        name (str): Of the picture, unique in the page.
        title (str): Above it.
        surface (LossSurface): The grid.
    """
    loss, wrong = surface.loss, surface.margin > 0
    with page_style():
        figure = Figure(figsize=(2.7, 3.3), layout='constrained')
        axes = figure.add_subplot()
        axes.grid(visible=False)
        drawn = axes.contourf(
            surface.steps, surface.steps, loss, levels=12, cmap='viridis'
        )
        if wrong.any() and not wrong.all():
            for colour, width in (('black', 2.6), ('white', 1.2)):
                axes.contour(
                    surface.steps,
                    surface.steps,
                    surface.margin,
                    levels=[0],
                    colors=colour,
                    linewidths=width,
                )
        axes.plot(0, 0, marker='+', color='white', markeredgewidth=1.5)
        figure.colorbar(
            drawn,
            ax=axes,
            label='cross-entropy',
            location='bottom',
            ticks=MaxNLocator(4),
        )
        axes.set_aspect('equal')
        axes.set_xlabel('along the gradient')
        axes.set_ylabel('random direction')
        axes.set_title(title)
    middle = len(loss) // 2
    description = (
        f'Cross-entropy {loss[middle, 0]:.3g} one radius against the '
        f'gradient, {loss[middle, middle]:.3g} at the image, '
        f'{loss[middle, -1]:.3g} one radius along it; '
        f'{loss[0, middle]:.3g} to {loss[-1, middle]:.3g} across. '
        f'{100 * wrong.mean():.0f} % of the area is misclassified.'
    )
    return to_svg(figure, name, title, description)
