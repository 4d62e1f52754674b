from __future__ import annotations

import numpy as np
from report_support import Page

from m2at_mm.reporting.heat_maps import draw_confusion, draw_surface
from m2at_mm.reporting.loss_surface import LossSurface


def test_confusion_in_per_cent_of_the_true_class() -> None:
    counts = np.array([[3, 1], [0, 0]])  # no image of the second class
    page = Page(str(draw_confusion('c', 'Clean', counts, ['cat', '<dog>'])))
    page.check()
    assert 'Per cent right by class: cat 75, <dog> 0.' in page.text
    assert '25' in page.text and 'Clean (%)' in page.text


def test_surface_tells_its_slope() -> None:
    steps = np.linspace(-1, 1, 5)
    loss = np.add.outer(0.1 * steps, 2 + steps)
    page = Page(
        str(draw_surface('s', 'Image 1', LossSurface(steps, loss, loss - 2)))
    )
    page.check()
    assert (
        'Cross-entropy 1 one radius against the gradient, 2 at the image, 3 '
        'one radius along it; 1.9 to 2.1 across.' in page.text
    )
    assert f'{100 * (loss > 2).mean():.0f} % of the area' in page.text


def test_surface_without_a_boundary_and_a_flat_one() -> None:
    steps = np.linspace(-1, 1, 3)
    flat = np.zeros((3, 3))
    markup = draw_surface('s', 't', LossSurface(steps, flat, flat - 1))
    assert '0 % of the area is misclassified' in markup
