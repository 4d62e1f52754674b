"""Conversion of checkpoints as a user starts it."""

import json
from pathlib import Path

import pyautoattack
import torch
from report_support import results_of
from tools_support import run_tool


def test_import_test_and_export(tmp_path: Path, cifar10_root: Path) -> None:
    source = Path(pyautoattack.__file__).parent / 'examples' / 'model_test.pt'
    out = tmp_path / 'undefended.pth'
    run_tool('convert_checkpoint', 'import', source, out)
    config = out.with_suffix('.py')
    words = [config, out, '--num-samples', 20, '--attacks', 'fgsm']
    words += ['--work-dir', tmp_path / 'work', '--cfg-options']
    words += [f'test_dataloader.dataset.data_root={cifar10_root}']
    run_tool('test', *words, 'test_dataloader.num_workers=0')
    results = json.loads((tmp_path / 'work' / 'results.json').read_text())
    assert results['clean'] >= 75  # 88 % of 200 images
    plain = tmp_path / 'plain.pt'
    words = ['export', config, out, plain, '--format', 'state-dict']
    run_tool('convert_checkpoint', *words)
    weights = torch.load(plain, weights_only=True)
    assert weights['std'].flatten().tolist() == [1, 1, 1]


def test_claim(tmp_path: Path) -> None:
    results = results_of(dict(autoattack=45.0))
    path, out = tmp_path / 'results.json', tmp_path / 'claim.json'
    path.write_text(json.dumps(results))
    run_tool('convert_checkpoint', 'claim', path, out, '--name', 'M2AT')
    claim = json.loads(out.read_text())
    assert claim['autoattack_acc'] == '45.00' and claim['name'] == 'M2AT'
