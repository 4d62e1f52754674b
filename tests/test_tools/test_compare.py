"""The comparison as a user starts it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from tools_support import DIGITS, TINY, run_tool

PLAN = f"""
seeds = [0]
common = {TINY!r}
common.update({{'train_dataloader.dataset.indices': 64,
                'train_cfg.max_epochs': 1}})
evaluation = dict(attacks=['fgsm'], num_samples=30)
runs = {{'m2at': dict(config={str(DIGITS)!r}),
        'pgd-at': dict(config={str(DIGITS)!r},
                       options={{'model.method._delete_': True,
                                'model.method.type': 'm2at_mm.PGDAT'}})}}
"""


@pytest.mark.slow
def test_two_methods_and_resume(tmp_path: Path) -> None:
    plan = tmp_path / 'plan.py'
    plan.write_text(PLAN)
    out = tmp_path / 'new' / 'out'
    words = [plan, '--work-dir', tmp_path / 'runs', '--out', out]
    printed = run_tool('compare', *words)
    assert 'm2at_seed0: done' in printed
    assert '| pgd-at | 1 |' in out.with_suffix('.md').read_text()
    picture = Image.open(out.with_suffix('.png')).convert('RGB')
    assert len(picture.getcolors(1 << 20)) > 50
    assert picture.size == pytest.approx((960, 600), abs=2)
    found = json.loads(out.with_suffix('.json').read_text())
    assert [run['num_samples'] for run in found['m2at']] == [30]

    logs = sorted((tmp_path / 'runs').glob('*/*.txt'))
    before = [path.read_text() for path in logs]
    run_tool('compare', *words)
    assert [path.read_text() for path in logs] == before  # nothing again
