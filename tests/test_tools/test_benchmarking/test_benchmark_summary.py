from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarking.summary import summarise, to_table

TIMES = {
    'ours': [[1.0, 1.2, 1.1], [2.0, 2.2, 2.1]],
    'other': [[2.2, 2.2, 9.0], [4.2, 4.2, 4.2]],
}


def test_ratios_are_of_rounds() -> None:
    results = summarise(TIMES, 10, {'ours': 2**20}, flops=100, peak=1000.0)
    assert results['contestants']['ours'] == dict(
        seconds=pytest.approx(1.6),
        quartiles=pytest.approx([1.125, 2.075]),
        images_per_second=pytest.approx(10 / 1.6),
        peak_memory_bytes=2**20,
        share_of_peak=pytest.approx(100 / 1.6 / 1000),
    )
    # The machine was twice as slow in the second round: both are 2.
    expected = dict(median=pytest.approx(2.0), range=[2.0, 2.0])
    assert results['ratios'] == dict(other=expected)


def test_table_has_a_row_each() -> None:
    for known in ({}, {'ours': 3 * 2**20}):
        text = io.StringIO()
        results = dict(summarise(TIMES, 10, known), batch_size=10)
        Console(file=text, width=120).print(to_table(results))
        shown = text.getvalue()
        assert '2.000 (2.000-2.000)' in shown and '1600' in shown
        assert ('peak MiB' in shown) == (' 3.0 ' in shown) == bool(known)
        assert '% of peak' not in shown
