"""The parts of a page: HTML blocks, inline SVG and inline images."""

from __future__ import annotations

import base64
import io
import re
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.image import imsave

#: How many colours the page's style sheet has for the runs.
NUM_COLOURS = 6
#: Stands in a cell without a value.
EMPTY = '–'
# Near-blacks that stand for colours of the style sheet, which has a light and
# a dark set. Figures use them for nothing else.
TEXT_COLOUR, _GRID = '#010200', '#010201'
_MEANING = {
    TEXT_COLOUR: 'currentColor',
    _GRID: 'var(--grid)',
    **{f'#01021{n}': f'var(--series-{n})' for n in range(NUM_COLOURS)},
}
_STYLE: dict[Any, Any] = {
    'svg.fonttype': 'none',  # text stays text: searched, read out, sharp
    'text.parse_math': False,  # a dollar in a name is a dollar
    'svg.hashsalt': 'm2at_mm',  # the same figure, the same file
    'font.family': 'sans-serif',
    'font.size': 9,
    'axes.titlesize': 10,
    'text.color': TEXT_COLOUR,
    'axes.edgecolor': TEXT_COLOUR,
    'axes.labelcolor': TEXT_COLOUR,
    'xtick.color': TEXT_COLOUR,
    'ytick.color': TEXT_COLOUR,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.axisbelow': True,
    'grid.color': _GRID,
    'grid.linewidth': 0.8,
    'legend.frameon': False,
    'figure.facecolor': 'none',
    'axes.facecolor': 'none',
    'savefig.facecolor': 'none',
}


def series_colour(number: int) -> str:
    """The colour of the n-th run, for matplotlib."""
    return f'#01021{number % NUM_COLOURS}'


#: Decorator of functions that draw and save a figure.
page_style = matplotlib.rc_context(_STYLE)
templates = Environment(
    loader=PackageLoader('m2at_mm.reporting'),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
#: What sections are made of: the macros of ``templates/blocks.html``.
blocks: Any = templates.get_template('blocks.html').module


def to_svg(figure: Figure, name: str, title: str, description: str) -> Markup:
    """Turn a figure into SVG for a page.

    Its ids begin with ``name``, so that several figures can share a page, and
    nothing in it points outside of the page.

    Args:
        figure (Figure): A figure, drawn in :data:`page_style` as this is.
        name (str): Unique in the page, of letters, digits and hyphens.
        title (str): Short alternative text.
        description (str): What the figure shows, in words and numbers.

    Returns:
        Markup: An ``svg`` element as wide as its place allows.
    """
    stream = io.StringIO()
    nothing = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
    figure.savefig(stream, format='svg', metadata=nothing)
    root = ElementTree.fromstring(stream.getvalue())
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(k): v for k, v in element.attrib.items()}
        element.attrib.clear()
        for key, value in attributes.items():
            element.set(key, _rewrite(key, value, name))
    natural = float(root.attrib.pop('width').removesuffix('pt'))
    for key in ('height', 'version'):
        root.attrib.pop(key, None)
    root.set('role', 'img')
    root.set('aria-labelledby', f'{name}-title {name}-desc')
    root.set('style', f'max-width: {natural:.0f}pt')
    for tag, text in (('desc', description), ('title', title)):
        element = ElementTree.Element(tag, id=f'{name}-{tag}')
        element.text = text
        root.insert(0, element)
    return Markup(ElementTree.tostring(root, encoding='unicode'))


def to_img(pixels: np.ndarray, alt: str) -> Markup:
    """Turn an image into an ``img`` element that holds it.

    Args:
        pixels (np.ndarray): RGB in [0, 1], shape (H, W, 3).
        alt (str): Alternative text.
    """
    stream = io.BytesIO()
    imsave(stream, np.ascontiguousarray(pixels.clip(0, 1)), format='png')
    data = base64.b64encode(stream.getvalue()).decode()
    return Markup('<img src="data:image/png;base64,{}" alt="{}">').format(
        data, alt
    )


def _local(name: str) -> str:
    """A name without its namespace: HTML knows an svg's own."""
    return name.rpartition('}')[2]


def _rewrite(key: str, value: str, name: str) -> str:
    """An attribute with the page's colours and the figure's own ids."""
    if key == 'id':
        return f'{name}-{value}'
    if key == 'href' and value.startswith('#'):
        return f'#{name}-{value[1:]}'
    if key in ('style', 'clip-path', 'fill', 'stroke'):
        value = re.sub(r'url\(#', f'url(#{name}-', value)
        return re.sub(
            '|'.join(_MEANING), lambda match: _MEANING[match[0]], value
        )
    return value
