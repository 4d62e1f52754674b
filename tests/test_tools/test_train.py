"""The training tool as a user starts it."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tools_support import (
    DIGITS,
    MAIN,
    NARROW,
    ROOT,
    TINY,
    best_checkpoint,
    clean_env,
    cli_options,
    run_tool,
)

# Loads a checkpoint into stock mmpretrain without the plug-in, and prints
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


def _losses(output: str) -> list[float]:
    return [float(x) for x in re.findall(r' loss: ([\d.]+)', output)]


def test_loss_falls_and_robust_accuracy_is_logged(
    trained: tuple[Path, str],
) -> None:
    _, output = trained
    losses = _losses(output)
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert 'kept_share:' in output and 'adversarial_accuracy:' in output
    reported = re.findall(
        r'robust/clean: ([\d.]+)  robust/pgd10: ([\d.]+)', output
    )
    assert len(reported) == 3
    # Guessing gives 10, and on 50 images hardly ever above 23.
    assert float(reported[-1][0]) > 25


def test_best_checkpoint_is_the_one_of_highest_robust_accuracy(
    trained: tuple[Path, str],
) -> None:
    work_dir, output = trained
    robust = [float(x) for x in re.findall(r'robust/pgd10: ([\d.]+)', output)]
    first_best = robust.index(max(robust)) + 1
    best = best_checkpoint(work_dir)
    assert best.name == f'best_robust_pgd10_epoch_{first_best}.pth'


def test_published_checkpoint_loads_in_stock_mmpretrain(
    trained: tuple[Path, str], tmp_path: Path
) -> None:
    """In a process that never imports the plug-in; equal logits."""
    work_dir, _ = trained
    (published,) = work_dir.glob('best_*-????????.pth')
    out = tmp_path / 'logits.pth'
    subprocess.run(
        [sys.executable, '-c', STOCK_PROCESS, str(published), str(out)],
        check=True,
        env=clean_env(),
    )
    from m2at_mm import cli
    from m2at_mm.registry import MODELS

    cfg = cli.load_config(str(DIGITS))
    cfg.model.classifier.backbone.update(base_channels=8, stem_channels=8)
    cfg.model.classifier.head.in_channels = 64
    model = MODELS.build(
        dict(cfg.model, data_preprocessor=dict(cfg.data_preprocessor))
    ).eval()
    state = torch.load(published, weights_only=True)['state_dict']
    model.load_state_dict(state, strict=True)
    pixels = torch.arange(3 * 32 * 32).view(1, 3, 32, 32) % 256
    with torch.no_grad():
        logits = model(pixels / 255)
    torch.testing.assert_close(torch.load(out), logits, atol=1e-5, rtol=0)


def test_resume_goes_on(trained: tuple[Path, str]) -> None:
    work_dir, _ = trained
    options = cli_options(TINY, {'train_cfg.max_epochs': 4})
    output = run_tool(
        'train', DIGITS, '--work-dir', work_dir, '--resume', *options
    )
    assert 'resumed epoch: 3' in output
    assert 'Epoch(train) [4]' in output and 'Epoch(train) [3]' not in output
    assert (work_dir / 'epoch_4.pth').is_file()


def test_torchrun_trains_and_resumes_on_the_cpu(tmp_path: Path) -> None:
    def torchrun(*words: str) -> str:
        epochs = {'train_dataloader.dataset.indices': 64}
        return run_tool(
            'train',
            DIGITS,
            '--work-dir',
            tmp_path,
            '--launcher',
            'pytorch',
            *words[1:],
            *cli_options(TINY, epochs, {'train_cfg.max_epochs': words[0]}),
            processes=2,
        )

    output = torchrun('1')
    assert 'robust/pgd10' in output
    assert best_checkpoint(tmp_path).is_file()
    assert 'resumed epoch: 1' in torchrun('2', '--resume')
    assert (tmp_path / 'epoch_2.pth').is_file()


def test_image_folder_trains(cifar10_root: Path, tmp_path: Path) -> None:
    roots = {
        f'{name}_dataloader.dataset.{key}': value
        for name in ('train', 'val')
        for key, value in (('data_root', cifar10_root), ('val_size', 20))
    }
    output = run_tool(
        'train',
        MAIN,
        '--work-dir',
        tmp_path,
        *cli_options(
            NARROW,
            roots,
            {
                'train_cfg.max_epochs': 1,
                'train_dataloader.dataset.indices': 64,
                'train_dataloader.batch_size': 16,
                'train_dataloader.num_workers': 0,
                'val_dataloader.dataset.indices': 20,
                'val_dataloader.num_workers': 0,
                'model.train_attack.steps': 1,
            },
        ),
    )
    assert 'robust/clean' in output and 'robust/pgd10' in output
    assert best_checkpoint(tmp_path).is_file()


@pytest.mark.parametrize(
    ('words', 'error', 'message'),
    [
        (
            [
                'train_dataloader.dataset.data_root=nowhere',
                'train_dataloader.dataset.download=False',
            ],
            FileNotFoundError,
            'no CIFAR10 data',
        ),
        (['model.threat_model.eps=8'], ValueError, "write '8/255'"),
        (['model.method.mask=circle'], ValueError, "mask='circle'"),
        (['model.train_attack.steps=0'], ValueError, 'steps=0'),
    ],
    ids=['missing data', 'eps 8', 'unknown mask', 'no steps'],
)
def test_wrong_input_ends_before_training(
    words: list[str],
    error: type,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    argv = ['train.py', str(MAIN), '--work-dir', str(tmp_path)]
    argv += ['--no-validate', '--cfg-options', *words]
    monkeypatch.setattr(sys, 'argv', argv)
    with pytest.raises(error, match=re.escape(message)):
        runpy.run_path(str(ROOT / 'tools/train.py'), run_name='__main__')
    assert not list(tmp_path.rglob('*.pth'))


def test_unknown_recipe_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    argv = ['train.py', 'mmpretrain::resnet/resnet18_8xb16_cifar10.py']
    monkeypatch.setattr(sys, 'argv', [*argv, '--recipe', 'm3at'])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / 'tools/train.py'), run_name='__main__')
    assert stop.value.code != 0
    message = capsys.readouterr().err
    assert "invalid choice: 'm3at'" in message and 'm2at' in message
