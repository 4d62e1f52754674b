from __future__ import annotations

from typing import Any

import numpy as np
from report_support import Page

from m2at_mm.reporting.figures import (
    draw_confusion,
    draw_curves,
    draw_intervals,
    draw_surface,
    draw_sweep,
)
from m2at_mm.reporting.measurement import LossSurface

ACCURACY = {'clean': (80.0, (70.0, 90.0)), 'pgd20': (50.0, (40.4, 59.6))}
SWEEP = {0.0: ACCURACY['clean'], 8 / 255: ACCURACY['pgd20']}


def described(markup: Any) -> str:
    page = Page(str(markup))
    assert len(page.all('svg')) == 1
    return page.text


def test_curves_tell_course_best_and_last() -> None:
    curves = {'a': {1.0: 20.0, 2.0: 30.0, 3.0: 25.0}, 'b': {}, 'c': {3.0: 9.0}}
    marks = {'a': (2.0, 3.0)}
    text = described(draw_curves('x', 't', curves, 'epoch', '%', 3.0, marks))
    course = 'a: 25 at epoch 3, from 20 at epoch 1; lowest 20, highest 30.'
    assert f'{course} Best at epoch 2, last 3.' in text
    assert 'c: 9 at epoch 3.' in text and 'b:' not in text


def test_values_are_told_in_the_colour_of_the_run() -> None:
    """Also where another run has none."""
    for markup, *told in (
        (draw_curves('x', 't', {'a': {}, 'b': {1.0: 1.0}}, 'e', 'y', 1.0),),
        (
            draw_intervals('x', [*ACCURACY], {'a': {}, 'b': ACCURACY}),
            'pgd20 50.0 (40.4 to 59.6)',
            'clean 80.0',
        ),
        (draw_sweep('x', {'a': {}, 'b': SWEEP}), 'b: 80.0 at 0, 50.0 at 8.'),
    ):
        assert 'var(--series-1)' in markup
        assert 'var(--series-0)' not in markup
        assert all(one in described(markup) for one in told)


def test_confusion_in_per_cent_of_the_true_class() -> None:
    counts = np.array([[3, 1], [0, 0]])  # no image of the second class
    text = described(draw_confusion('c', 'Clean', counts, ['cat', '<dog>']))
    assert 'Per cent right by class: cat 75, <dog> 0.' in text
    assert '25' in text and 'Clean (%)' in text


def test_surface_tells_its_slope() -> None:
    steps = np.linspace(-1, 1, 5)
    loss = np.add.outer(0.1 * steps, 2 + steps)
    surface, flat = (
        LossSurface(steps, loss, loss - 2),
        LossSurface(steps, loss * 0, loss * 0 - 1),  # and without a boundary
    )
    text = described(draw_surface('s', 't', surface))
    assert (
        'Cross-entropy 1 one radius against the gradient, 2 at the image, 3 '
        'one radius along it; 1.9 to 2.1 across.'
    ) in text
    assert f'{100 * (loss > 2).mean():.0f} % of the area' in text
    assert '0 % of the area is misc' in described(draw_surface('s', 't', flat))
