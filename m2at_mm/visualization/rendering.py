"""What the pictures share: panels, texts, colours and files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from m2at_mm.attacks import ThreatModel

Classes = Sequence[str] | None

# Two that colour-blind people tell apart (Okabe and Ito, "Color Universal
# Design", 2008); the texts say in words what they mean, too.
RIGHT, WRONG = '#0072B2', '#D55E00'
_LONGEST_NAME = 16  # characters; ImageNet's names fill lines


def show_panel(
    axis: Any, image: Tensor, text: str = '', colour: str = 'black'
) -> None:
    """Show an image without ticks, with a text below.

    Args:
        axis (matplotlib.axes.Axes): Where to.
        image (Tensor): RGB or one channel in [0, 1], shape (C, H, W).
        text (str): Lines below. Defaults to ''.
        colour (str): Of the text. Defaults to ``'black'``.
    """
    pixels = image.expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1).numpy()
    axis.imshow(pixels, interpolation='nearest')
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_color('0.7')  # white images have an edge as well
    axis.set_xlabel(
        text, fontsize=8, color=colour, labelpad=3, parse_math=False
    )


def amplitude(threat_model: ThreatModel, perturbation: Tensor) -> float:
    """The change of a pixel that fills the scale of a picture.

    Args:
        threat_model (ThreatModel): Under linf it is the radius.
        perturbation (Tensor): Under l2 it is the largest value of this.
    """
    if threat_model.norm == 'linf':
        return threat_model.eps
    return float(perturbation.abs().max())


def amplified(perturbation: Tensor, full: float) -> Tensor:
    """Grey for no change, black and white for -full and +full, per channel.

    Args:
        perturbation (Tensor): Any shape.
        full (float): At 0, a radius of nothing, all is grey.
    """
    return (0.5 + perturbation / (2 * full or 1)).clamp(0, 1)


def describe_eps(threat_model: ThreatModel) -> str:
    """The radius as people write it."""
    return f'{threat_model.norm} eps {threat_model.eps * 255:g}/255'


def class_name(index: int, classes: Classes) -> str:
    """A class by its name, shortened, or by its number without names."""
    name = str(classes[index]) if classes else str(index)
    if len(name) > _LONGEST_NAME:
        name = name[: _LONGEST_NAME - 1] + '…'
    return name


def describe_scores(scores: Tensor, classes: Classes) -> str:
    """The likeliest class and its probability.

    Args:
        scores (Tensor): Probabilities, shape (K, ).
        classes (Sequence[str], optional): Names of the classes.
    """
    score, index = scores.max(0)
    return f'{class_name(int(index), classes)} {100 * score:.0f} %'


def figure_pixels(figure: Figure, dpi: int = 100) -> np.ndarray:
    """Draw a figure.

    Args:
        figure (Figure): Of any size.
        dpi (int): Pixels per inch. Defaults to 100.

    Returns:
        np.ndarray: RGB, uint8, shape (H, W, 3).
    """
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_animation(
    figures: Sequence[Figure], path: Path, dpi: int = 90
) -> None:
    """Write figures of one size as a GIF that repeats for ever.

    Args:
        figures (Sequence[Figure]): The frames, 0.7 s each and the last 2 s.
        path (Path): Ends in ``.gif``.
        dpi (int): Pixels per inch. Defaults to 90.
    """
    frames = [Image.fromarray(figure_pixels(one, dpi)) for one in figures]
    frames[0].save(
        path,
        save_all=True,
        append_images=frames[1:],
        duration=[700] * (len(frames) - 1) + [2000],
        loop=0,
    )
