from __future__ import annotations

from typing import Any

from report_support import Page, results_of

from m2at_mm.reporting.line_figures import (
    draw_curves,
    draw_intervals,
    draw_sweep,
)


def _described(markup: Any) -> str:
    page = Page(str(markup))
    page.check()
    assert len(page.all('svg')) == 1
    return page.text


def test_curves_tell_course_best_and_last() -> None:
    curves = {'a': {1.0: 20.0, 2.0: 30.0, 3.0: 25.0}, 'b': {}, 'c': {3.0: 9.0}}
    markup = draw_curves(
        'x', 'Robust', curves, 'epoch', '%', 3.0, {'a': (2.0, 3.0)}
    )
    text = _described(markup)
    assert 'a: 25 at epoch 3, from 20 at epoch 1; lowest 20, highest 30.' in (
        text
    )
    assert 'Best at epoch 2, last 3.' in text
    assert 'c: 9 at epoch 3.' in text and 'b:' not in text


def test_a_run_keeps_its_colour_where_another_is_missing() -> None:
    none: dict[str, dict | None] = {'a': None}
    own = results_of({'pgd20': 40.0})
    sweep = dict(own, sweep=[own])
    for markup in (
        draw_curves('x', 't', {'a': {}, 'b': {1.0: 1.0}}, 'epoch', 'y', 1.0),
        draw_intervals('x', {**none, 'b': own}),
        draw_sweep('x', {**none, 'b': sweep}),
    ):
        assert 'var(--series-1)' in markup
        assert 'var(--series-0)' not in markup


def test_intervals_and_sweep_tell_their_figures() -> None:
    own = results_of({'pgd20': 50.0})
    text = _described(draw_intervals('x', {'a': own}))
    assert 'pgd20 50.0 (40.4 to 59.6)' in text and 'clean 80.0' in text
    text = _described(draw_sweep('y', {'a': dict(own, sweep=[own])}))
    assert 'a: 80.0 at 0, 50.0 at 8.' in text
