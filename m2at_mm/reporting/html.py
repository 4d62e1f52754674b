"""The parts of a page: HTML blocks, inline SVG and inline images."""

import base64
import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import style
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

#: Decorator of functions that draw and save a figure.
page_style = style.context(
    Path(__file__).with_name('templates') / 'figures.mplstyle'
)
_FORM: Any = dict(autoescape=True, trim_blocks=True, lstrip_blocks=True)
_LOADER = PackageLoader('m2at_mm.reporting')
templates = Environment(loader=_LOADER, undefined=StrictUndefined, **_FORM)
#: What sections are made of: the macros of ``templates/blocks.html``.
blocks: Any = templates.get_template('blocks.html').module


def series_colour(number: int) -> str:
    """The colour of the n-th run, for matplotlib."""
    return f'#01021{number % NUM_COLOURS}'


def to_svg(figure: Figure, name: str, title: str, description: str) -> Markup:
    """Turn a figure, drawn in :data:`page_style` as this is, into SVG.

    Its ids begin with ``name``, of letters, digits and hyphens, so that
    several figures can share a page, and nothing in it points outside of the
    page. Title and description, in words and numbers, are its alternative
    text. It is as wide as its place allows.
    """
    stream = io.StringIO()
    nothing = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
    figure.savefig(stream, format='svg', metadata=nothing)
    root = ElementTree.fromstring(stream.getvalue())
    for element in root.iter():
        # Without namespaces: HTML knows an svg's own.
        element.tag = element.tag.rpartition('}')[2]
        given = [(k.rpartition('}')[2], v) for k, v in element.items()]
        element.attrib.clear()
        element.attrib.update((k, _rewrite(k, v, name)) for k, v in given)
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


def _rewrite(key: str, value: str, name: str) -> str:
    """An attribute with the page's colours and the figure's own ids."""
    if key == 'id':
        return f'{name}-{value}'
    if key == 'href' and value.startswith('#'):
        return f'#{name}-{value[1:]}'
    value = value.replace('url(#', f'url(#{name}-')
    return re.sub('|'.join(_MEANING), lambda match: _MEANING[match[0]], value)


def to_img(pixels: np.ndarray, alt: str) -> Markup:
    """An ``img`` that holds an image: RGB in [0, 1], shape (H, W, 3)."""
    stream = io.BytesIO()
    imsave(stream, np.ascontiguousarray(pixels.clip(0, 1)), format='png')
    data = base64.b64encode(stream.getvalue()).decode()
    img = Markup('<img src="data:image/png;base64,{}" alt="{}">')
    return img.format(data, alt)
