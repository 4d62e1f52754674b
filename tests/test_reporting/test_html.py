import base64
import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from report_support import Page

from m2at_mm.reporting.html import page_style, series_colour, to_img, to_svg


@page_style
def draw(name: str) -> str:
    figure = Figure(figsize=(2, 2))
    axes = figure.add_subplot()
    axes.plot([1, 2], [1, 3], color=series_colour(1), marker='o')
    axes.imshow(np.eye(2), interpolation='none')
    axes.set_title('<b>title & more</b>')
    return str(to_svg(figure, name, 'a < b', 'in "words"'))


def test_two_figures_share_a_page_and_its_colours() -> None:
    html = draw('one')
    page = Page(html + draw('two'))
    assert len(page.all('svg')) == 2
    assert page.all('image')[0]['href'].startswith('data:image/png')
    # What was drawn is text, and no markup.
    assert not page.all('b') and '<b>title & more</b>' in page.text
    assert 'a < b' in page.text and 'in "words"' in page.text
    for colour in ('stroke: var(--series-1)', 'stroke: var(--grid)'):
        assert colour in html
    assert 'currentColor' in html and '#0102' not in html


def test_image_is_in_the_element() -> None:
    pixels = np.random.default_rng(0).random((4, 5, 3))
    (img,) = Page(str(to_img(pixels, 'a "quoted" <alt>'))).all('img')
    assert img['alt'] == 'a "quoted" <alt>'
    data = base64.b64decode(img['src'].partition(',')[2])
    shown = np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))
    assert np.abs(shown / 255 - pixels).max() < 1 / 255
