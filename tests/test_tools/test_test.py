"""The evaluation tool as a user starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import build_stock, classifier_cfg
from tools_support import (
    DIGITS,
    MAIN,
    NARROW,
    ROOT,
    TINY,
    clean_env,
    cli_options,
    run_tool,
)

WIDTH = {key: TINY[key] for key in TINY if 'model.cl' in key}
NO_WORKERS = {'test_dataloader.num_workers': 0}


@pytest.fixture()
def checkpoint(tmp_path: Path) -> Path:
    """A stock mmpretrain checkpoint with random weights."""
    torch.manual_seed(0)
    model = build_stock(classifier_cfg(base_channels=8, stem_channels=8))
    path = tmp_path / 'stock.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


def _evaluate(
    work_dir: Path, *words: object, processes: int = 0
) -> dict[str, object]:
    run_tool('test', '--work-dir', work_dir, *words, processes=processes)
    return json.loads((work_dir / 'results.json').read_text())


def test_results_agree_with_the_schema_and_with_two_processes(
    checkpoint: Path, tmp_path: Path
) -> None:
    words = [DIGITS, checkpoint, '--num-samples', 31, '--batch-size', 8]
    words += ['--attacks', 'clean', 'fgsm', 'pgd20', 'apgd-ce']
    options = cli_options(WIDTH, NO_WORKERS)
    one = _evaluate(tmp_path / 'one', *words, *options)
    assert list(one)[:4] == ['clean', 'attacks', 'worst_case', 'num_samples']
    assert list(one['attacks']) == ['fgsm', 'pgd20', 'apgd-ce']
    assert one['num_samples'] == 31
    assert one['threat_model'] == {'norm': 'linf', 'eps': 32 / 255}
    assert one['worst_case'] <= min(one['attacks'].values()) <= one['clean']
    _evaluate(
        tmp_path / 'two',
        *words,
        *['--launcher', 'pytorch'],
        *options,
        processes=2,
    )
    for name in ('results.json', 'results.samples.npz'):
        first, second = (tmp_path / n / name for n in ('one', 'two'))
        if name.endswith('json'):
            assert first.read_text() == second.read_text()
        else:
            with np.load(first) as a, np.load(second) as b:
                assert {k: v.tolist() for k, v in a.items()} == {
                    k: v.tolist() for k, v in b.items()
                }


def test_killed_evaluation_goes_on(checkpoint: Path, tmp_path: Path) -> None:
    # A tenth of the images is right by chance, and withstands this radius.
    words = [DIGITS, checkpoint, '--num-samples', 300, '--batch-size', 4]
    words += ['--attacks', 'pgd20', '--eps', '0.001/255']
    words += [*cli_options(WIDTH, NO_WORKERS)]
    work_dir = tmp_path / 'killed'
    tool = str(ROOT / 'tools' / 'test.py')
    command = [sys.executable, tool, '--work-dir', str(work_dir)]
    command += map(str, words)
    process = subprocess.Popen(
        command, env=clean_env(), stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    done: list[Path] = []
    while not done and time.monotonic() < deadline:
        done = sorted(work_dir.glob('evaluation/*/linf*/*/batch_*.npz'))
        assert process.poll() is None, 'it ended before it could be killed'
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert done and not (work_dir / 'results.json').exists()
    written = {path: path.stat().st_mtime_ns for path in done}

    resumed = _evaluate(work_dir, *words)
    whole = _evaluate(tmp_path / 'whole', *words)
    assert resumed == whole
    for path, when in written.items():  # not attacked again
        assert path.stat().st_mtime_ns == when


def test_stock_config_sweep_and_transfer(
    checkpoint: Path, cifar10_root: Path, tmp_path: Path
) -> None:
    stock = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
    surrogate = tmp_path / 'surrogate.py'
    surrogate.write_text(
        f'_base_ = [{str(MAIN)!r}]\n'
        'model = dict(classifier=dict(backbone=dict(base_channels=8, '
        'stem_channels=8), head=dict(in_channels=64)))\n'
    )
    results = _evaluate(
        tmp_path / 'out',
        *[stock, checkpoint, '--num-samples', 20],
        *['--attacks', 'fgsm', 'transfer', '--eps', '4/255', '8/255'],
        *['--transfer', surrogate, checkpoint],
        *cli_options(
            NARROW,
            NO_WORKERS,
            {'test_dataloader.dataset.data_root': cifar10_root},
        ),
    )
    assert results['threat_model']['eps'] == 8 / 255
    sweep = results['sweep']
    assert [one['threat_model']['eps'] for one in sweep] == [4 / 255, 8 / 255]
    assert set(results['attacks']) == {'fgsm', 'transfer'}
    with np.load(tmp_path / 'out' / 'results.samples.npz') as samples:
        assert len(samples['transfer@4/255']) == 20


def test_other_norm(checkpoint: Path, tmp_path: Path) -> None:
    results = _evaluate(
        tmp_path / 'out',
        *[DIGITS, checkpoint, '--num-samples', 10, '--attacks', 'pgd20'],
        *['--norm', 'l2', '--eps', '128/255'],
        *cli_options(WIDTH, NO_WORKERS),
    )
    assert results['threat_model'] == {'norm': 'l2', 'eps': 128 / 255}


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--eps', '8'], "eps='8' is above 1"),
        (['--attacks', 'pgd7'], "invalid choice: 'pgd7'"),
        (['--attacks', 'transfer'], 'give --transfer CONFIG CHECKPOINT'),
        (['--num-samples', '0'], 'num_samples=0 must be from 1'),
        (['--norm', 'l2'], 'give eps, too'),
        (
            ['--batch-size', '0'],
            'batch_size=0 must be a whole number of at least 1',
        ),
    ],
    ids=lambda value: value[0] + value[1] if isinstance(value, list) else '',
)
def test_wrong_input(
    words: list[str], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError) as error:
        run_tool(
            'test',
            *[DIGITS, checkpoint, '--work-dir', tmp_path, *words],
            *cli_options(WIDTH, NO_WORKERS),
        )
    assert message in str(error.value)


def test_checkpoint_of_another_network_is_refused(
    checkpoint: Path, tmp_path: Path, cifar10_root: Path
) -> None:
    root = {'test_dataloader.dataset.data_root': cifar10_root}
    with pytest.raises(AssertionError, match='does not fit the model'):
        run_tool(
            'test',
            MAIN,
            checkpoint,
            *['--work-dir', tmp_path, '--num-samples', 1],
            *cli_options(root),
        )
