"""The benchmark as a user starts it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

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
    names = ['m2at_mm', 'm2at_mm pgd-at', 'plain', 'limit']
    if importlib.util.find_spec('torchattacks') is not None:
        names.insert(3, 'torchattacks')
    assert list(results['contestants']) == names
    assert all(name in output for name in names)
    assert results['flops_per_iteration'] > 0
    assert results['settings']['train_attack']['steps'] == 2
    parts = results['parts']
    assert parts['attack'] > parts['mask and mix'] > 0
    # The training is only timed: nothing of it stays.
    assert [path.name for path in tmp_path.iterdir()] == ['figures.json']
