"""The training tool as a user starts it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tools_support import (
    DIGITS,
    NARROW,
    TINY,
    clean_env,
    cli_options,
    run_tool,
)

from m2at_mm import cli
from m2at_mm.registry import MODELS

# Loads a checkpoint into stock mmpretrain without the plug-in, and saves
# the logits of an image in 0-255.
STOCK_PROCESS = """
import sys
import torch
from mmpretrain.registry import MODELS
from mmpretrain.models import ClsDataPreprocessor
from mmengine.registry import init_default_scope
init_default_scope('mmpretrain')
checkpoint, out = sys.argv[1:]
model = MODELS.build(dict(
    type='ImageClassifier',
    backbone=dict(
        type='ResNet_CIFAR', depth=18, base_channels=8, stem_channels=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3))).eval()
state = torch.load(checkpoint, weights_only=True)['state_dict']
model.load_state_dict(state, strict=True)
pixels = torch.arange(3 * 32 * 32).view(1, 3, 32, 32) % 256
inputs = model.data_preprocessor(dict(inputs=pixels.byte()))['inputs']
with torch.no_grad():
    torch.save(model(inputs), out)
assert not any(name.startswith('m2at_mm') for name in sys.modules)
"""


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A work dir after three epochs on digits, and what was printed."""
    work_dir = tmp_path_factory.mktemp('digits')
    options = cli_options(TINY, {'train_cfg.max_epochs': 3})
    output = run_tool('train', DIGITS, '--work-dir', work_dir, *options)
    return work_dir, output


def test_loss_falls_and_the_most_robust_checkpoint_is_kept(
    trained: tuple[Path, str],
) -> None:
    work_dir, output = trained
    losses = [float(x) for x in re.findall(r' loss: ([\d.]+)', output)]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert 'kept_share:' in output and 'adversarial_accuracy:' in output
    reported = r'robust/clean: ([\d.]+)  robust/pgd10: ([\d.]+)'
    clean, robust = zip(*re.findall(reported, output))
    assert len(clean) == 3
    # Guessing gives 10, and on 50 images hardly ever above 23.
    assert float(clean[-1]) > 25
    first_best = robust.index(max(robust, key=float)) + 1
    (best,) = work_dir.glob('best_*_[0-9].pth')
    assert best.name == f'best_robust_pgd10_epoch_{first_best}.pth'


def test_published_checkpoint_loads_in_stock_mmpretrain(
    trained: tuple[Path, str], tmp_path: Path
) -> None:
    """In a process that never imports the plug-in; equal logits."""
    (published,) = trained[0].glob('best_*-????????.pth')
    out = tmp_path / 'logits.pth'
    command = [sys.executable, '-c', STOCK_PROCESS, str(published), str(out)]
    subprocess.run(command, check=True, env=clean_env())
    cfg = cli.load_config(str(DIGITS))
    cfg.merge_from_dict(NARROW)
    model = MODELS.build(cli.model_config(cfg)).eval()
    state = torch.load(published, weights_only=True)['state_dict']
    model.load_state_dict(state, strict=True)
    pixels = torch.arange(3 * 32 * 32).view(1, 3, 32, 32) % 256
    with torch.no_grad():
        logits = model(pixels / 255)
    torch.testing.assert_close(torch.load(out), logits, atol=1e-5, rtol=0)


def test_resume_goes_on(trained: tuple[Path, str]) -> None:
    words = [DIGITS, '--work-dir', trained[0], '--resume']
    words += cli_options(TINY, {'train_cfg.max_epochs': 4})
    output = run_tool('train', *words)
    assert 'resumed epoch: 3' in output
    assert 'Epoch(train) [4]' in output and 'Epoch(train) [3]' not in output
    assert (trained[0] / 'epoch_4.pth').is_file()
