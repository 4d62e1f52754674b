"""Checkpoints at every moment at which a run can end."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from digits_runner import build_digits_runner
from interrupted_runs import KillAt, KilledError
from mmengine.runner import Runner, find_latest_checkpoint

from m2at_mm.hooks import SafeCheckpointHook

METRIC = 'robust/pgd10'


def build_runner(work_dir: Path, epochs: int, **checkpoint: Any) -> Runner:
    checkpoint = dict(max_keep_ckpts=1, published_keys=None) | checkpoint
    return build_digits_runner(
        work_dir,
        10,
        epochs=epochs,
        randomness=dict(seed=0),
        default_hooks=dict(checkpoint=checkpoint),
    )


def hook_of(runner: Runner) -> SafeCheckpointHook:
    (found,) = (h for h in runner.hooks if isinstance(h, SafeCheckpointHook))
    return found


def rising(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each validation is better than the one before."""
    stock = SafeCheckpointHook._save_best_checkpoint

    def better(self: SafeCheckpointHook, runner: Runner, _: object) -> None:
        stock(self, runner, {METRIC: float(runner.epoch)})

    monkeypatch.setattr(SafeCheckpointHook, '_save_best_checkpoint', better)


class PowerCut(BaseException):
    """Nothing after it is done, as after SIGKILL."""


def fail_at(
    monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException
) -> list[str]:
    """The ``number``-th file cannot be put in its place; what was put."""
    put: list[str] = []
    stock: Callable = os.replace

    def replace(source: Path, target: Path) -> None:
        if len(put) == number:
            raise error
        put.append(Path(target).name)
        stock(source, target)

    monkeypatch.setattr(os, 'replace', replace)
    return put


def checkpoints(work_dir: Path) -> set[str]:
    return {path.name for path in work_dir.glob('*.pth')}


def test_keeps_the_last_and_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rising(monkeypatch)
    build_runner(tmp_path, 3).train()
    best = 'best_robust_pgd10_epoch_3.pth'
    assert checkpoints(tmp_path) == {'epoch_3.pth', best}
    assert find_latest_checkpoint(str(tmp_path)) == str(
        tmp_path / 'epoch_3.pth'
    )


# Per epoch: its checkpoint, last_checkpoint, the best one, the checkpoint
# with the best one's name in it, last_checkpoint.
@pytest.mark.parametrize('number', range(5, 10))
@pytest.mark.parametrize(
    'error', [PowerCut(), OSError(errno.ENOSPC, 'No space left on device')]
)
def test_something_whole_is_left_at_any_moment(
    number: int,
    error: BaseException,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rising(monkeypatch)
    with monkeypatch.context() as patch:
        put = fail_at(patch, number, error)
        with pytest.raises(type(error)):
            build_runner(tmp_path, 2).train()
    assert len(put) == number
    left = checkpoints(tmp_path)
    for name in left:
        torch.load(tmp_path / name, weights_only=True)
    latest = find_latest_checkpoint(str(tmp_path))
    assert latest is not None and Path(latest).name in left
    assert any(name.startswith('best') for name in left)

    # Resumed, it ends with what an uninterrupted run has, and no more.
    resumed = build_runner(tmp_path, 2)
    resumed._resume = True
    resumed.train()
    best = 'best_robust_pgd10_epoch_2.pth'
    assert checkpoints(tmp_path) == {'epoch_2.pth', best}


def test_a_full_disk_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, 'No space left on device')
    fail_at(monkeypatch, 0, full)
    with pytest.raises(OSError, match=r'No space left.*go on with --resume'):
        build_runner(tmp_path, 1).train()


def test_other_storage_is_left_as_it_is(tmp_path: Path) -> None:
    args = dict(backend='local')
    runner = build_runner(tmp_path, 1, backend_args=args)
    runner.train()
    assert hook_of(runner).backend_args == args


def test_a_published_copy_replaces_the_earlier_one(tmp_path: Path) -> None:
    keys = ['meta', 'state_dict']
    build_runner(tmp_path, 1, published_keys=keys).train()
    first = checkpoints(tmp_path)
    assert len(first) == 4
    other = tmp_path / 'epoch_1-notes.pth'
    other.write_text('not one of its own')
    resumed = build_runner(tmp_path, 1, published_keys=keys)
    resumed._resume = True
    resumed.train()
    assert len(checkpoints(tmp_path)) == 5 and other.exists()
    assert checkpoints(tmp_path) != first | {other.name}


@pytest.mark.parametrize('strategy', ['cos', 'linear'])
def test_a_one_cycle_schedule_goes_on(strategy: str, tmp_path: Path) -> None:
    def build(name: str) -> Runner:
        return build_digits_runner(
            tmp_path / name,
            10,
            epochs=4,
            param_scheduler=dict(
                _delete_=True,
                type='OneCycleLR',
                eta_max=0.1,
                total_steps=4,
                anneal_strategy=strategy,
            ),
        )

    def rates(runner: Runner) -> list[float]:
        return runner.message_hub.get_scalar('train/lr').data[0].tolist()

    whole = build('whole')
    whole.train()
    interrupted = build('parts')
    interrupted.register_hook(KillAt(2))
    with pytest.raises(KilledError):
        interrupted.train()
    resumed = build('parts')
    resumed._resume = True
    resumed.train()
    assert rates(resumed) == rates(whole)
    assert len(set(rates(whole))) == 4


def test_validation_alone_saves_nothing(tmp_path: Path) -> None:
    metrics = build_runner(tmp_path, 1).val()
    assert 'robust/pgd10' in metrics
    assert checkpoints(tmp_path) == set()
