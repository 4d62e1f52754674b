"""Conversion of checkpoints as a user starts it."""

from __future__ import annotations

import json
from pathlib import Path

import pyautoattack
import torch
from tools_support import run_tool


def test_import_evaluate_and_export(
    tmp_path: Path, cifar10_root: Path
) -> None:
    source = Path(pyautoattack.__file__).parent / 'examples' / 'model_test.pt'
    out = tmp_path / 'undefended.pth'
    run_tool('convert_checkpoint', 'import', source, out)
    config = out.with_suffix('.py')
    run_tool(
        'test',
        *[config, out, '--num-samples', 20, '--attacks', 'fgsm'],
        *['--work-dir', tmp_path / 'work', '--cfg-options'],
        f'test_dataloader.dataset.data_root={cifar10_root}',
        'test_dataloader.num_workers=0',
    )
    results = json.loads((tmp_path / 'work' / 'results.json').read_text())
    assert results['clean'] >= 75  # 88 % of 200 images
    plain = tmp_path / 'plain.pt'
    run_tool(
        'convert_checkpoint',
        *['export', config, out, plain, '--format', 'state-dict'],
    )
    weights = torch.load(plain, weights_only=True)
    assert weights['std'].flatten().tolist() == [1, 1, 1]


def test_claim(tmp_path: Path) -> None:
    results = dict(
        clean=80.0,
        attacks=dict(autoattack=45.0),
        num_samples=1000,
        threat_model=dict(norm='linf', eps=8 / 255),
        alarms=[],
    )
    path, out = tmp_path / 'results.json', tmp_path / 'claim.json'
    path.write_text(json.dumps(results))
    run_tool('convert_checkpoint', 'claim', path, out, '--name', 'M2AT')
    claim = json.loads(out.read_text())
    assert claim['autoattack_acc'] == '45.00' and claim['name'] == 'M2AT'
