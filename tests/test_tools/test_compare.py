"""The comparison as a user starts it."""

from __future__ import annotations

import json
from pathlib import Path

from tools_support import DIGITS, TINY, run_tool


def test_two_methods_and_resume(tmp_path: Path) -> None:
    common = {
        **TINY,
        'train_dataloader.dataset.indices': 64,
        'train_cfg.max_epochs': 1,
    }
    plan = tmp_path / 'plan.py'
    plan.write_text(
        f'seeds = [0]\ncommon = {common!r}\n'
        "evaluation = dict(attacks=['fgsm'], num_samples=30)\n"
        f'runs = {{"m2at": dict(config={str(DIGITS)!r}), '
        f'"pgd-at": dict(config={str(DIGITS)!r}, '
        "options={'model.method._delete_': True, "
        "'model.method.type': 'm2at_mm.PGDAT'})}\n"
    )
    words = [plan, '--work-dir', tmp_path / 'runs', '--out', tmp_path / 'out']
    printed = run_tool('compare', *words)
    assert 'm2at_seed0: done' in printed
    assert '| pgd-at | 1 |' in (tmp_path / 'out.md').read_text()
    assert (tmp_path / 'out.png').stat().st_size > 5000
    found = json.loads((tmp_path / 'out.json').read_text())
    assert [run['num_samples'] for run in found['m2at']] == [30]

    logs = sorted((tmp_path / 'runs').glob('*/*.txt'))
    before = [path.read_text() for path in logs]
    run_tool('compare', *words)
    assert [path.read_text() for path in logs] == before  # nothing again
