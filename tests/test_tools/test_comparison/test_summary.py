from __future__ import annotations

from typing import Any

import pytest

from comparison.summary import pareto_front, summarise, to_markdown


def _run(clean: float, pgd: float, worst: float) -> dict[str, Any]:
    return dict(clean=clean, attacks=dict(pgd20=pgd), worst_case=worst)


ENTRIES = summarise(
    {
        'standard': [_run(90, 1, 0)],
        'pgd-at': [_run(80, 50, 46), _run(82, 52, 48)],
        'mart': [_run(78, 56, 45)],  # good under PGD alone
        'm2at': [_run(84, 51, 46)],
        'none': [],
        'm2at again': [_run(84, 51, 46)],
    }
)


@pytest.mark.parametrize(
    ('figure', 'best'), [('worst_case', 'pgd-at'), ('pgd20', 'mart')]
)
def test_front_depends_on_the_attack(figure: str, best: str) -> None:
    front = [best, 'm2at', 'm2at again', 'standard']
    assert pareto_front(ENTRIES, figure) == front


def test_table() -> None:
    assert to_markdown(ENTRIES).splitlines() == [
        '| method | seeds | clean | pgd20 | worst_case | on the front of |',
        '| --- | --- | --- | --- | --- | --- |',
        '| standard | 1 | 90.0 | 1.0 | 0.0 | pgd20, worst_case |',
        '| pgd-at | 2 | 81.0 ± 1.0 | 51.0 ± 1.0 | 47.0 ± 1.0 | worst_case |',
        '| mart | 1 | 78.0 | 56.0 | 45.0 | pgd20 |',
        '| m2at | 1 | 84.0 | 51.0 | 46.0 | pgd20, worst_case |',
        '| m2at again | 1 | 84.0 | 51.0 | 46.0 | pgd20, worst_case |',
    ]
