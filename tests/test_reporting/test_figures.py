from typing import Any

import numpy as np
from report_support import Page

from m2at_mm.reporting import figures
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
    axis = ('epoch', '%', 3.0)
    text = described(figures.draw_curves('x', 't', curves, *axis, marks))
    course = 'a: 25 at epoch 3, from 20 at epoch 1; lowest 20, highest 30.'
    assert f'{course} Best at epoch 2, last 3.' in text
    assert 'c: 9 at epoch 3.' in text and 'b:' not in text


def test_values_are_told_in_the_colour_of_the_run() -> None:
    """Also where another run has none."""
    every: Any = ({1.0: 1.0}, ACCURACY, SWEEP)
    points, accuracy, sweep = ({'a': {}, 'b': one} for one in every)
    curves = figures.draw_curves('x', 't', points, 'e', 'y', 1.0)
    intervals = figures.draw_intervals('x', [*ACCURACY], accuracy)
    swept = figures.draw_sweep('x', sweep)
    for markup in (curves, intervals, swept):
        assert 'var(--series-1)' in markup and 'var(--series-0)' not in markup
    told = described(intervals)
    assert 'pgd20 50.0 (40.4 to 59.6)' in told and 'clean 80.0' in told
    assert 'b: 80.0 at 0, 50.0 at 8.' in described(swept)


def test_confusion_in_per_cent_of_the_true_class() -> None:
    counts = np.array([[3, 1], [0, 0]])  # no image of the second class
    markup = figures.draw_confusion('c', 'Clean', counts, ['cat', '<dog>'])
    text = described(markup)
    assert 'Per cent right by class: cat 75, <dog> 0.' in text
    assert '25' in text and 'Clean (%)' in text


def test_surface_tells_its_slope() -> None:
    steps = np.linspace(-1, 1, 5)
    loss = np.add.outer(0.1 * steps, 2 + steps)
    surface = LossSurface(steps, loss, loss - 2)
    text = described(figures.draw_surface('s', 't', surface))
    told = 'Cross-entropy 1 one radius against the gradient, 2 at the image, '
    assert f'{told}3 one radius along it; 1.9 to 2.1 across.' in text
    assert f'{100 * (loss > 2).mean():.0f} % of the area' in text
    # And without a boundary.
    flat = LossSurface(steps, loss * 0, loss * 0 - 1)
    text = described(figures.draw_surface('s', 't', flat))
    assert '0 % of the area is misc' in text
