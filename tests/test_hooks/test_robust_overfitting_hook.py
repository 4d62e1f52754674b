from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from digits_runner import build_digits_runner, log_of, quick_cfg
from pytest import MonkeyPatch

from m2at_mm.evaluation import RobustAccuracy


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: MonkeyPatch) -> Callable[..., str]:
    """Function of the validations' figures: the log's line on a training."""

    def line(*figures: float, max_loss: float = 2.0, last: int = 0) -> str:
        given = iter(figures)
        monkeypatch.setattr(
            RobustAccuracy,
            'compute_metrics',
            lambda self, _: {'clean': 90.0, 'pgd10': next(given)},
        )
        hook = dict(type='m2at_mm.RobustOverfittingHook', max_loss=max_loss)
        runner = build_digits_runner(
            tmp_path,
            10,
            epochs=last or len(figures),
            network=quick_cfg,
            default_hooks=dict(overfitting=hook),
        )
        runner._resume = bool(last)
        runner.train()
        lines = log_of(tmp_path).splitlines()
        return ''.join(one for one in lines if 'robust/pgd10: best' in one)

    return line


LOST = (
    'best 45.0 % after epoch 2, last 42.0 % after epoch 3. '
    '3.0 points were lost'
)


COURSES = [
    ([30.0, 45.0, 42.0], 2.0, 'WARNING', LOST),
    ([30.0, 45.0, 44.0], 2.0, 'INFO', 'last 44.0 % after epoch 3'),
    ([45.0, 35.0], 10.0, 'INFO', 'last 35.0 % after epoch 2'),
    ([50.0], 2.0, '', ''),  # no comparison
]


@pytest.mark.parametrize(('figures', 'max_loss', 'level', 'said'), COURSES)
def test_a_loss_is_a_warning_and_noise_is_not(
    figures: list, max_loss: float, level: str, said: str, trained: Any
) -> None:
    line = trained(*figures, max_loss=max_loss)
    assert level in line and said in line and bool(line) == bool(said)
    assert ('lost' in line) == (level == 'WARNING')


def test_validations_before_an_interruption_count(trained: Any) -> None:
    trained(50.0, 40.0)
    # The last checkpoint was saved before its validation, which is repeated.
    line = trained(40.0, 41.0, 42.0, last=4)
    assert 'best 50.0 % after epoch 1, last 42.0 % after epoch 4' in line
