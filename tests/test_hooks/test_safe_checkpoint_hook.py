"""Checkpoints at every moment at which a run can end."""

import errno
import os
from pathlib import Path
from typing import Any
from unittest import mock

import digits_runner as runs
import pytest
import torch
from mmengine.runner import Runner, find_latest_checkpoint

from m2at_mm.hooks import SafeCheckpointHook


def build_runner(
    work_dir: Path, epochs: int, more: dict | None = None, **checkpoint: Any
) -> Runner:
    checkpoint = dict(max_keep_ckpts=1, published_keys=None) | checkpoint
    settings: dict[str, Any] = dict(randomness=dict(seed=0), epochs=epochs)
    settings |= dict(default_hooks=dict(checkpoint=checkpoint)) | (more or {})
    settings |= dict(network=runs.quick_cfg)
    return runs.build_digits_runner(work_dir, 10, **settings)


@pytest.fixture
def rising(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each validation is better than the one before."""
    stock = SafeCheckpointHook._save_best_checkpoint

    def better(self: SafeCheckpointHook, runner: Runner, _: object) -> None:
        stock(self, runner, {'robust/pgd10': float(runner.epoch)})

    monkeypatch.setattr(SafeCheckpointHook, '_save_best_checkpoint', better)


class PowerCut(BaseException):
    """Nothing after it is done, as after SIGKILL."""


MEND = r'No space left.*go on with --resume'
FULL = OSError(errno.ENOSPC, 'No space left on device')


def checkpoints(work_dir: Path) -> set[str]:
    return {path.name for path in work_dir.glob('*.pth')}


LAST, BEST = 'epoch_3.pth', 'best_robust_pgd10_epoch_3.pth'


KEPT = [({}, {LAST, BEST}), (dict(interval=-1, save_last=False), {BEST})]


@pytest.mark.parametrize(('settings', 'kept'), KEPT)
@pytest.mark.usefixtures('rising')
def test_last_and_best_stay(settings: dict, kept: set, tmp_path: Path) -> None:
    build_runner(tmp_path, 3, **settings).train()
    assert checkpoints(tmp_path) == kept
    if LAST in kept:
        assert find_latest_checkpoint(str(tmp_path)) == str(tmp_path / LAST)


# Per epoch: its checkpoint, last_checkpoint, the best one, the checkpoint
# with the best one's name in it, last_checkpoint.
@pytest.mark.parametrize('number', range(5, 10))
@pytest.mark.parametrize(('error', 'said'), [(PowerCut(), ''), (FULL, MEND)])
@pytest.mark.usefixtures('rising')
def test_something_whole_is_left_at_any_moment(
    number: int, error: BaseException, said: str, tmp_path: Path
) -> None:
    put: list[str] = []
    stock = os.replace

    def replace(source: Path, target: Path) -> None:
        """The ``number``-th file cannot be put in its place."""
        if len(put) == number:
            raise error
        put.append(target.name)
        stock(source, target)

    with pytest.raises(type(error), match=said):
        with mock.patch('os.replace', replace):
            build_runner(tmp_path, 2).train()
    assert len(put) == number
    left = checkpoints(tmp_path)
    for name in left:
        torch.load(tmp_path / name, weights_only=True)
    latest = find_latest_checkpoint(str(tmp_path))
    assert latest is not None and Path(latest).name in left
    assert any(name.startswith('best') for name in left)

    # Resumed, it ends with what an uninterrupted run has, and no more.
    runs.resume(build_runner(tmp_path, 2))
    last = {name.replace('3', '2') for name in (LAST, BEST)}
    assert checkpoints(tmp_path) == last


def test_other_storage_is_left_as_it_is(tmp_path: Path) -> None:
    args = dict(backend='local')
    runner = build_runner(tmp_path, 1, backend_args=args)
    runner.train()
    (hook,) = (h for h in runner.hooks if isinstance(h, SafeCheckpointHook))
    assert hook.backend_args == args


def test_a_published_copy_replaces_the_earlier_one(tmp_path: Path) -> None:
    keys = ['meta', 'state_dict']
    build_runner(tmp_path, 1, published_keys=keys).train()
    first = checkpoints(tmp_path)
    assert len(first) == 4
    other = tmp_path / 'epoch_1-notes.pth'
    other.write_text('not one of its own')
    runs.resume(build_runner(tmp_path, 1, published_keys=keys))
    assert len(checkpoints(tmp_path)) == 5 and other.exists()
    assert checkpoints(tmp_path) != first | {other.name}


def test_validation_alone_saves_nothing(tmp_path: Path) -> None:
    metrics = build_runner(tmp_path, 1).val()
    assert 'robust/pgd10' in metrics
    assert checkpoints(tmp_path) == set()
