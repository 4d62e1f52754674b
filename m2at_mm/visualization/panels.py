"""What the pictures share: grids of panels, texts, colours and files."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from m2at_mm.attacks import ThreatModel

#: Names of the classes in a picture; None shows their numbers.
Classes = Sequence[str] | None

# Two that colour-blind people tell apart (Okabe and Ito, "Color Universal
# Design", 2008); the texts say in words what they mean, too.
RIGHT, WRONG = '#0072B2', '#D55E00'


def grid(
    shape: tuple[int, int],
    size: tuple[float, float],
    titles: Iterable[str],
    title: str,
    fontsize: int = 9,
    **settings: Any,
) -> tuple[Figure, np.ndarray]:
    """A figure, its size in inches, with rows and columns of axes."""
    figure = Figure(figsize=size, layout='constrained')
    axes = figure.subplots(*shape, squeeze=False, **settings)
    for axis, text in zip(axes[0], titles):
        axis.set_title(text, fontsize=fontsize)
    figure.suptitle(title, fontsize=11)
    return figure, axes


def heading(what: str, threat_model: ThreatModel, note: str) -> str:
    """The title of a picture, with the radius as people write it."""
    eps = f'{threat_model.norm} eps {threat_model.eps * 255:g}/255'
    return f'{what}, {eps}' + (f' ({note})' if note else '')


def show(
    axis: Any, image: Tensor, text: str = '', colour: str = 'black'
) -> None:
    """Show an image in [0, 1], (C, H, W), without ticks and a text below."""
    pixels = image.expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1)
    axis.imshow(pixels.cpu().numpy(), interpolation='nearest')
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_color('0.7')  # white images have an edge as well
    look = dict(fontsize=8, color=colour, labelpad=3)
    axis.set_xlabel(text, **look, parse_math=False)


def amplitude(threat_model: ThreatModel, perturbation: Tensor) -> float:
    """The change that fills the scale: the radius, or in l2 the largest."""
    if threat_model.norm == 'linf':
        return threat_model.eps
    return float(perturbation.abs().max())


def amplified(perturbation: Tensor, full: float) -> Tensor:
    """Grey for no change, black and white for -full and +full."""
    return (0.5 + perturbation / (2 * full or 1)).clamp(0, 1)


def class_name(index: int | Tensor, classes: Classes) -> str:
    """A class by its name, shortened, or by its number without names."""
    name = str(classes[int(index)] if classes else int(index))
    # ImageNet's names fill lines.
    return name if len(name) <= 16 else f'{name[:15]}…'


def likeliest(scores: Tensor, classes: Classes) -> str:
    """The likeliest class and its probability, of scores of shape (K, )."""
    score, index = scores.max(0)
    return f'{class_name(index, classes)} {100 * score:.0f} %'


def figure_pixels(figure: Figure, dpi: int = 100) -> np.ndarray:
    """Draw a figure: RGB, uint8, shape (H, W, 3)."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_animation(
    figures: Sequence[Figure], path: Path, dpi: int = 90
) -> None:
    """Write figures of one size as a GIF that repeats forever."""
    frames = [Image.fromarray(figure_pixels(one, dpi)) for one in figures]
    times = [700] * (len(frames) - 1) + [2000]  # milliseconds
    how: Any = dict(save_all=True, append_images=frames[1:], loop=0)
    frames[0].save(path, **how, duration=times)
