"""The benchmark as a user starts it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from tools_support import DIGITS, TINY, cli_options, run_tool


def test_prints_and_writes_figures(tmp_path: Path) -> None:
    out = tmp_path / 'figures.json'
    output = run_tool(
        'benchmark',
        DIGITS,
        '--methods',
        'pgd-at',
        '--rounds',
        1,
        '--block',
        1,
        '--out',
        out,
        *cli_options(
            TINY,
            {
                'train_dataloader.batch_size': 4,
                'train_dataloader.num_workers': 0,
            },
        ),
    )
    results = json.loads(out.read_text())
    names = ['m2at_mm', 'm2at_mm pgd-at', 'plain', 'script', 'limit']
    if importlib.util.find_spec('torchattacks') is not None:
        names.insert(4, 'torchattacks')
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
    out = tmp_path / 'figures.json'
    words = ('--rounds', 1, '--block', 1, '--out', out, '--against', 'limit')
    output = run_tool(
        'benchmark',
        DIGITS,
        *words,
        '--launcher',
        'pytorch',
        *cli_options(
            TINY,
            {
                'train_dataloader.batch_size': 4,
                'train_dataloader.num_workers': 0,
            },
        ),
        processes=2,
    )
    results = json.loads(out.read_text())
    ours = results['contestants']['m2at_mm']
    assert results['batch_size'] == 8 and results['settings']['processes'] == 2
    assert ours['images_per_second'] == pytest.approx(8 / ours['seconds'])
    assert results['all_reduce']['seconds'] > 0
    assert 'exchange alone' in output and output.count('of 8') == 1
