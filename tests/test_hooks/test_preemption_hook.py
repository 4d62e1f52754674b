"""SIGTERM during training and validation."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interrupted_runs import build_runner, end_of, same, seeded
from mmengine.hooks import Hook
from mmengine.runner import Runner

from m2at_mm.hooks import PreemptionHook


@pytest.fixture(autouse=True)
def no_listener() -> Iterator[None]:
    """Trainings that other tests broke off may have left theirs."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Terminate(Hook):
    """Sends this process SIGTERM in an iteration, or in a validation."""

    def __init__(self, iteration: int, in_validation: bool = False) -> None:
        self.iteration = iteration
        self.in_validation = in_validation
        self.sent = False

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        self._send(runner, in_validation=False)

    def after_val_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        self._send(runner, in_validation=True)

    def _send(self, runner: Runner, in_validation: bool) -> None:
        now = (runner.iter, in_validation)
        if not self.sent and now == (self.iteration, self.in_validation):
            self.sent = True
            self._kill()

    def _kill(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


class TerminateJob(Terminate):
    """Sends it to all processes of the run, as schedulers do."""

    def _kill(self) -> None:
        workers = multiprocessing.active_children()
        assert workers
        pids = [os.getpid(), *(worker.pid for worker in workers)]
        # From a shell: a worker obeys its parent.
        assert os.system(f'kill -TERM {" ".join(map(str, pids))}') == 0


def terminated(
    work_dir: Path, terminate: Terminate, loop: str = 'middle', **settings: Any
) -> None:
    runner = build_runner(work_dir, loop, **by_epoch(), **settings)
    runner.register_hook(terminate)
    with pytest.raises(SystemExit) as end:
        runner.train()
    assert end.value.code == 143
    # Whoever listened before listens again.
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    (log, *_) = sorted(work_dir.glob('*/*.log'))[::-1]
    assert 'SIGTERM: training ends after' in log.read_text('utf-8')


def by_epoch() -> dict[str, Any]:
    return dict(
        randomness=dict(seed=0),
        default_hooks=dict(
            checkpoint=dict(by_epoch=True, interval=1, max_keep_ckpts=1),
            preemption=dict(type='m2at_mm.PreemptionHook'),
        ),
    )


def names(work_dir: Path) -> set[str]:
    return {p.name for p in work_dir.glob('*.pth') if '-' not in p.name}


@pytest.mark.parametrize(
    ('iteration', 'in_validation', 'saved'),
    [
        (4, False, 'preempted_iter_5.pth'),
        (5, False, 'preempted_iter_6.pth'),  # an epoch's last batch
        (6, True, 'epoch_2.pth'),
    ],
)
def test_resumed_is_uninterrupted(
    iteration: int, in_validation: bool, saved: str, tmp_path: Path
) -> None:
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    seeded(0)
    build_runner(whole, 'middle', **by_epoch()).train()
    seeded(0)
    terminated(parts, Terminate(iteration, in_validation))
    latest = Path((parts / 'last_checkpoint').read_text('utf-8'))
    assert latest.name == saved and latest.is_file()

    seeded(1)
    resumed = build_runner(
        parts, 'middle', experiment_name='resumed', **by_epoch()
    )
    resumed._resume = True
    resumed.train()
    ends = [end_of(whole), end_of(parts)]
    for part in ('state_dict', 'ema_state_dict', 'optimizer', 'rng_state'):
        same(*(end[part] for end in ends), part)
    # The checkpoint of the signal is gone once there is a later one.
    assert names(parts) == names(whole)


@pytest.mark.skipif(
    not hasattr(signal, 'sigwaitinfo'), reason='no sigwaitinfo'
)
@pytest.mark.parametrize('loop', ['middle', 'iterations'])
def test_signal_to_data_workers_loses_nothing(
    loop: str, tmp_path: Path
) -> None:
    loader = dict(num_workers=1)
    terminated(tmp_path, TerminateJob(4), loop, train_dataloader=loader)
    assert 'preempted_iter_5.pth' in names(tmp_path)


def test_accumulated_gradients_are_applied_first(tmp_path: Path) -> None:
    accumulate = dict(optim_wrapper=dict(accumulative_counts=3))
    terminated(tmp_path, Terminate(3), **accumulate)
    assert 'preempted_iter_6.pth' in names(tmp_path)


def test_validation_goes_on_where_nothing_is_saved(tmp_path: Path) -> None:
    rare = dict(default_hooks=dict(checkpoint=dict(interval=3)))
    settings = by_epoch()
    settings['default_hooks']['checkpoint'].update(
        rare['default_hooks']['checkpoint']
    )
    runner = build_runner(tmp_path, 'middle', **settings)
    runner.register_hook(Terminate(3, in_validation=True))
    with pytest.raises(SystemExit):
        runner.train()
    assert 'preempted_iter_4.pth' in names(tmp_path)


def test_second_signal_is_the_systems(tmp_path: Path) -> None:
    came: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    hook = PreemptionHook()
    hook.before_train(build_runner(tmp_path, 'epochs'))
    os.kill(os.getpid(), signal.SIGTERM)
    assert came == []
    os.kill(os.getpid(), signal.SIGTERM)
    assert came == [signal.SIGTERM]


@pytest.mark.parametrize('interval', [0, -1, 1.5, '10'])
def test_wrong_interval(interval: Any) -> None:
    with pytest.raises(ValueError, match=r'interval=.* whole number'):
        PreemptionHook(interval)
