"""The benchmark as a user starts it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tools_support import DIGITS, TINY, cli_options, run_tool

from benchmarking.rivals import INSTALLED

LOADER = {
    'train_dataloader.batch_size': 4,
    'train_dataloader.num_workers': 0,
}


def benchmark(folder: Path, *words: str, processes: int = 0) -> Any:
    """What it prints, and the figures."""
    out = folder / 'figures.json'
    words = ('--rounds', '1', '--block', '1', '--out', str(out), *words)
    options = cli_options(TINY, LOADER)
    printed = run_tool(
        'benchmark', DIGITS, *words, *options, processes=processes
    )
    return printed, json.loads(out.read_text())


def test_prints_and_writes_figures(tmp_path: Path) -> None:
    output, results = benchmark(tmp_path, '--methods', 'pgd-at')
    names = ['m2at_mm', 'm2at_mm pgd-at', *INSTALLED]
    assert list(results['contestants']) == names
    assert all(name in output for name in names)
    assert results['flops_per_iteration'] > 0
    assert results['settings']['train_attack']['steps'] == 2
    parts = results['parts']
    assert parts['attack'] > parts['mask and mix'] > 0
    # The training is only timed: nothing of it stays.
    assert [path.name for path in tmp_path.iterdir()] == ['figures.json']


@pytest.mark.slow
def test_two_processes_take_twice_the_images(tmp_path: Path) -> None:
    words = ('--against', 'limit', '--launcher', 'pytorch')
    output, results = benchmark(tmp_path, *words, processes=2)
    ours = results['contestants']['m2at_mm']
    assert results['batch_size'] == 8 and results['settings']['processes'] == 2
    assert ours['images_per_second'] == pytest.approx(8 / ours['seconds'])
    assert results['all_reduce']['seconds'] > 0
    assert 'exchange alone' in output and output.count('of 8') == 1
