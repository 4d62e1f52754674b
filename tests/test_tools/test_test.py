"""The evaluation tool as a user starts it."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tools_support
import torch
from tiny import build_stock, classifier_cfg
from tools_support import DIGITS, MAIN, NARROW, ROOT, cli_options, run_tool

STOCK = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'


@pytest.fixture()
def checkpoint(tmp_path: Path) -> Path:
    """A stock mmpretrain checkpoint with random weights."""
    torch.manual_seed(0)
    model = build_stock(classifier_cfg(base_channels=8, stem_channels=8))
    path = tmp_path / 'stock.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


def _words(checkpoint: Path, *words: object, cifar10: object = None) -> list:
    """Config, checkpoint and options of a narrow network."""
    options: dict[str, Any] = {'test_dataloader.num_workers': 0}
    if cifar10:
        options['test_dataloader.dataset.data_root'] = cifar10
    options = cli_options(NARROW, options)
    return [STOCK if cifar10 else DIGITS, checkpoint, *words, *options]


def _evaluate(work_dir: Path, words: list, processes: int = 0) -> Any:
    launcher = ['--launcher', 'pytorch'] if processes else []
    words = ['--work-dir', work_dir, *launcher, *words]
    run_tool('test', *words, processes=processes)
    return json.loads((work_dir / 'results.json').read_text())


def test_results_agree_with_the_schema_and_with_two_processes(
    checkpoint: Path, tmp_path: Path
) -> None:
    words = ['--num-samples', 31, '--batch-size', 8]
    words += ['--attacks', 'clean', 'fgsm', 'pgd20', 'apgd-ce']
    words = _words(checkpoint, *words)
    one = _evaluate(tmp_path / 'one', words)
    assert list(one)[:4] == ['clean', 'attacks', 'worst_case', 'num_samples']
    assert list(one['attacks']) == ['fgsm', 'pgd20', 'apgd-ce']
    assert one['num_samples'] == 31
    assert one['threat_model'] == {'norm': 'linf', 'eps': 32 / 255}
    assert one['worst_case'] <= min(one['attacks'].values()) <= one['clean']
    assert _evaluate(tmp_path / 'two', words, processes=2) == one
    samples = (tmp_path / n / 'results.samples.npz' for n in ('one', 'two'))
    a, b = (dict(np.load(path)) for path in samples)
    np.testing.assert_equal(a, b)


def test_killed_evaluation_goes_on(checkpoint: Path, tmp_path: Path) -> None:
    # A tenth of the images is right by chance, and withstands this radius.
    words = ['--attacks', 'pgd20', '--eps', '0.001/255']
    words = _words(checkpoint, *words, '--num-samples', 120, '--batch-size', 4)
    work_dir = tmp_path / 'killed'
    command = [sys.executable, ROOT / 'tools' / 'test.py', *words]
    command = [*map(str, command), '--work-dir', str(work_dir)]
    quiet = dict(env=tools_support.clean_env(), stdout=subprocess.DEVNULL)
    process = subprocess.Popen(command, **quiet)
    deadline = time.monotonic() + 300
    done: list[Path] = []
    while not done and time.monotonic() < deadline:
        done = sorted(work_dir.glob('evaluation/*/linf*/*/batch_*.npz'))
        assert process.poll() is None, 'it ended before it could be killed'
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert done and not (work_dir / 'results.json').exists()
    written = {path: path.stat().st_mtime_ns for path in done}

    resumed = _evaluate(work_dir, words)
    assert resumed == _evaluate(tmp_path / 'whole', words)
    for path, when in written.items():  # not attacked again
        assert path.stat().st_mtime_ns == when


def test_stock_config_sweep_and_transfer(
    checkpoint: Path, cifar10_root: Path, tmp_path: Path
) -> None:
    surrogate = tmp_path / 'surrogate.py'
    narrow = 'backbone=dict(base_channels=8, stem_channels=8), '
    narrow += 'head=dict(in_channels=64)'
    text = f'_base_ = [{str(MAIN)!r}]\nmodel = dict(classifier=dict({narrow}))'
    surrogate.write_text(text)
    options = ['--attacks', 'fgsm', 'transfer', '--eps', '4/255', '8/255']
    options += ['--transfer', surrogate, checkpoint, '--num-samples', 20]
    words = _words(checkpoint, *options, cifar10=cifar10_root)
    results = _evaluate(tmp_path / 'out', words)
    assert results['threat_model']['eps'] == 8 / 255
    radii = [one['threat_model']['eps'] for one in results['sweep']]
    assert radii == [4 / 255, 8 / 255]
    assert set(results['attacks']) == {'fgsm', 'transfer'}
    with np.load(tmp_path / 'out' / 'results.samples.npz') as samples:
        assert len(samples['transfer@4/255']) == 20


def test_other_norm_and_short_screen(checkpoint: Path, tmp_path: Path) -> None:
    options = ['--norm', 'l2', '--eps', '128/255', '--num-samples', 10]
    words = _words(checkpoint, *options, '--attacks', 'pgd20')
    printed = run_tool('test', '--work-dir', tmp_path, *words)
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results['threat_model'] == {'norm': 'l2', 'eps': 128 / 255}
    assert len(printed.splitlines()) <= 40
    (log,) = tmp_path.rglob('*.log')
    assert 'Config:' in log.read_text() and 'Config:' not in printed
