from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from m2at_mm.comparison import (
    pareto_front,
    plot_trade_off,
    summarise,
    to_markdown,
)


def _run(clean: float, pgd: float, worst: float) -> dict[str, Any]:
    return dict(clean=clean, attacks=dict(pgd20=pgd), worst_case=worst)


RESULTS = {
    'standard': [_run(90, 1, 0)],
    'pgd-at': [_run(80, 50, 46), _run(82, 52, 48)],
    'mart': [_run(78, 56, 45)],  # good under PGD alone
    'm2at': [_run(84, 51, 46)],
    'none': [],
}


def test_mean_and_spread() -> None:
    entries = summarise(RESULTS)
    assert [entry.name for entry in entries] == list(RESULTS)[:-1]
    assert entries[1].seeds == 2
    assert entries[1].mean == dict(clean=81, pgd20=51, worst_case=47)
    assert entries[1].spread['clean'] == 1 and entries[0].spread['clean'] == 0


def test_front_depends_on_the_attack() -> None:
    entries = summarise(RESULTS)
    assert pareto_front(entries, 'worst_case') == [
        'pgd-at',
        'm2at',
        'standard',
    ]
    assert pareto_front(entries, 'pgd20') == ['mart', 'm2at', 'standard']


def test_equal_methods_are_both_on_the_front() -> None:
    entries = summarise({'a': [_run(80, 50, 40)], 'b': [_run(80, 50, 40)]})
    assert pareto_front(entries, 'worst_case') == ['a', 'b']


def test_table() -> None:
    lines = to_markdown(summarise(RESULTS)).splitlines()
    assert lines[0].startswith('| method | seeds | clean | pgd20 | worst_case')
    assert '| pgd-at | 2 | 81.0 ± 1.0 | 51.0 ± 1.0 | 47.0 ± 1.0 |' in lines[3]
    assert lines[4].endswith('| pgd20 |')
    assert lines[5].endswith('| pgd20, worst_case |')


def test_picture(tmp_path: Path) -> None:
    path = tmp_path / 'new' / 'plot.png'
    plot_trade_off(summarise(RESULTS), path)
    with Image.open(path) as image:
        assert image.size == pytest.approx((960, 600), abs=2)
        assert len(image.convert('RGB').getcolors(1 << 20)) > 50
