from __future__ import annotations

import io

import pytest
from rich.console import Console

from m2at_mm.benchmark import summarise, to_table

TIMES = {
    'ours': [[1.0, 1.2, 1.1], [2.0, 2.2, 2.1]],
    'other': [[2.2, 2.2, 9.0], [4.2, 4.2, 4.2]],
}


def test_ratios_are_of_rounds() -> None:
    results = summarise(TIMES, 10, {'ours': 2**20}, flops=100, peak=1000.0)
    ours = results['contestants']['ours']
    assert ours['seconds'] == pytest.approx(1.6)
    assert ours['quartiles'] == pytest.approx([1.125, 2.075])
    assert ours['images_per_second'] == pytest.approx(10 / 1.6)
    assert ours['peak_memory_bytes'] == 2**20
    assert ours['share_of_peak'] == pytest.approx(100 / 1.6 / 1000)
    # The machine was twice as slow in the second round: both are 2.
    assert results['ratios'] == {
        'other': dict(median=pytest.approx(2.0), range=[2.0, 2.0])
    }


def test_table_has_a_row_each() -> None:
    results = dict(summarise(TIMES, 10, {}), batch_size=10)
    console = Console(file=io.StringIO(), width=120)
    console.print(to_table(results))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert '2.000 (2.000-2.000)' in text
    assert '1600' in text and 'peak' not in text
