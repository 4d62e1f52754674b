from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from digits_runner import build_digits_runner
from mmengine.runner import Runner

from m2at_mm.evaluation import RobustAccuracy
from m2at_mm.hooks import RobustOverfittingHook


def trained(
    work_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    figures: list[float],
    epochs: int,
    resume: bool = False,
    **settings: Any,
) -> tuple[Runner, str]:
    """A training whose validations give these figures, and its log."""
    given = iter(figures)
    monkeypatch.setattr(
        RobustAccuracy,
        'compute_metrics',
        lambda self, _: {'clean': 90.0, 'pgd10': next(given)},
    )
    hook = dict(type='m2at_mm.RobustOverfittingHook', **settings)
    runner = build_digits_runner(
        work_dir, 10, epochs=epochs, default_hooks=dict(overfitting=hook)
    )
    runner._resume = resume
    runner.train()
    logs = sorted(work_dir.glob('*/*.log'), key=lambda p: p.stat().st_mtime)
    return runner, logs[-1].read_text('utf-8')


def test_a_loss_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, log = trained(tmp_path, monkeypatch, [30.0, 45.0, 42.0], 3)
    (line,) = (line for line in log.splitlines() if 'last 42.0' in line)
    assert 'WARNING' in line
    assert 'robust/pgd10: best 45.0 % after epoch 2' in line
    assert 'last 42.0 % after epoch 3. 3.0 points were lost' in line


@pytest.mark.parametrize(
    ('figures', 'max_loss'), [([30.0, 45.0, 44.0], 2.0), ([45.0, 35.0], 10.0)]
)
def test_noise_is_not(
    figures: list[float],
    max_loss: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, log = trained(
        tmp_path, monkeypatch, figures, len(figures), max_loss=max_loss
    )
    (line,) = (line for line in log.splitlines() if 'best 45.0' in line)
    assert 'INFO' in line and 'lost' not in line


def test_validations_before_an_interruption_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path, monkeypatch, [50.0, 40.0], 2)
    # The last checkpoint was saved before its validation, which is repeated.
    _, log = trained(tmp_path, monkeypatch, [40.0, 41.0, 42.0], 4, resume=True)
    assert 'best 50.0 % after epoch 1, last 42.0 % after epoch 4' in log


def test_one_validation_is_no_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, log = trained(tmp_path, monkeypatch, [50.0], 1)
    assert 'best 50.0' not in log


@pytest.mark.parametrize('max_loss', [-1, float('nan')])
def test_wrong_loss(max_loss: float) -> None:
    with pytest.raises(ValueError, match='max_loss='):
        RobustOverfittingHook(max_loss)
