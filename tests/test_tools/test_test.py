"""The evaluation tool as a user starts it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import build_stock, classifier_cfg
from tools_support import DIGITS, MAIN, NARROW, TINY, cli_options, run_tool


@pytest.fixture()
def checkpoint(tmp_path: Path) -> Path:
    """A stock mmpretrain checkpoint with random weights."""
    torch.manual_seed(0)
    model = build_stock(classifier_cfg(base_channels=8, stem_channels=8))
    path = tmp_path / 'stock.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


def _evaluate(tmp_path: Path, *words: object, processes: int = 0) -> dict:
    out = tmp_path / f'results{processes}.json'
    where = ['--work-dir', tmp_path, '--out', out]
    run_tool('test', *words, *where, processes=processes)
    return json.loads(out.read_text())


def test_results_agree_with_the_schema_and_with_two_processes(
    checkpoint: Path, tmp_path: Path
) -> None:
    words = [DIGITS, checkpoint, '--num-samples', 31]
    words += ['--attacks', 'clean', 'fgsm', 'pgd20', 'cw20']
    options = cli_options(
        {key: TINY[key] for key in TINY if 'model.cl' in key},
        {'test_dataloader.batch_size': 16},
    )
    one = _evaluate(tmp_path, *words, *options)
    assert list(one) == [
        'clean',
        'attacks',
        'worst_case',
        'num_samples',
        'threat_model',
        'alarms',
    ]
    assert list(one['attacks']) == ['fgsm', 'pgd20', 'cw20']
    assert one['num_samples'] == 31
    assert one['threat_model'] == {'norm': 'linf', 'eps': 32 / 255}
    assert one['worst_case'] <= min(one['attacks'].values()) <= one['clean']
    # 31 images on two processes: the padded one counts once. FGSM draws
    # nothing at random.
    two = _evaluate(
        tmp_path, *words, '--launcher', 'pytorch', *options, processes=2
    )
    assert two['num_samples'] == 31
    assert two['clean'] == one['clean']
    assert two['attacks']['fgsm'] == one['attacks']['fgsm']


def test_stock_config_is_attacked_too(
    checkpoint: Path, cifar10_root: Path, tmp_path: Path
) -> None:
    results = _evaluate(
        tmp_path,
        'mmpretrain::resnet/resnet18_8xb16_cifar10.py',
        checkpoint,
        *['--attacks', 'clean', 'fgsm', '--num-samples', 20],
        *cli_options(
            NARROW, {'test_dataloader.dataset.data_root': cifar10_root}
        ),
    )
    assert results['num_samples'] == 20
    assert results['threat_model']['eps'] == 8 / 255


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
