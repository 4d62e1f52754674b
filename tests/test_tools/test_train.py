"""The training tool as a user starts it."""

import re
from pathlib import Path
from typing import Any

import pytest
from tools_support import DIGITS, TINY, cli_options, run_tool


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A work dir after three epochs on digits, and what was printed."""
    work_dir = tmp_path_factory.mktemp('digits')
    options = cli_options(TINY, {'train_cfg.max_epochs': 3})
    output = run_tool('train', DIGITS, '--work-dir', work_dir, *options)
    return work_dir, output


def test_loss_falls_and_the_best_checkpoint_is_kept(trained: Any) -> None:
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


def test_resume_goes_on(trained: tuple[Path, str]) -> None:
    words = [DIGITS, '--work-dir', trained[0], '--resume']
    words += cli_options(TINY, {'train_cfg.max_epochs': 4})
    output = run_tool('train', *words)
    assert 'resumed epoch: 3' in output
    assert 'Epoch(train) [4]' in output and 'Epoch(train) [3]' not in output
    assert (trained[0] / 'epoch_4.pth').is_file()
