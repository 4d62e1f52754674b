"""SIGTERM during training and validation."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import digits_runner as runs
import pytest
import torch
from digits_runner import KillAt
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset

from m2at_mm.hooks import PreemptionHook
from m2at_mm.hooks.preemption_hook import end_with_parent

needs_sigwaitinfo = pytest.mark.skipif(
    not hasattr(signal, 'sigwaitinfo'), reason='no sigwaitinfo'
)


@pytest.fixture(autouse=True)
def no_listener() -> Iterator[None]:
    """Trainings that other tests broke off may have left theirs."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Terminate(KillAt):
    """Sends this process SIGTERM, once."""

    def kill(self) -> None:
        self.at = (-1, False)
        os.kill(os.getpid(), signal.SIGTERM)


class TerminateJob(KillAt):
    """Sends it to all processes of the run, as schedulers do."""

    def kill(self) -> None:
        workers = multiprocessing.active_children()
        assert workers
        from_a_shell(os.getpid(), *(worker.pid for worker in workers))


def from_a_shell(*pids: int | None) -> None:
    """A worker obeys its parent, which is another process."""
    assert os.system(f'kill -TERM {" ".join(map(str, pids))}') == 0


def build(
    work_dir: Path, loop: str = 'middle', interval: int = 1, **settings: Any
) -> Runner:
    """A run with checkpoints after epochs."""
    checkpoint = dict(by_epoch=True, interval=interval, max_keep_ckpts=1)
    preemption = dict(type='m2at_mm.PreemptionHook')
    hooks = dict(checkpoint=checkpoint, preemption=preemption)
    settings |= dict(default_hooks=hooks, randomness=dict(seed=0))
    return runs.build_runner(work_dir, loop, **settings)


def terminated(kill: KillAt, runner: Runner) -> str:
    """Name of the checkpoint that a run ends with."""
    runner.register_hook(kill)
    with pytest.raises(SystemExit) as end:
        runner.train()
    assert end.value.code == 143
    # Whoever listened before listens again.
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert 'SIGTERM: training ends after' in runs.log_of(Path(runner.work_dir))
    latest = Path(runner.work_dir, 'last_checkpoint').read_text('utf-8')
    assert Path(latest).is_file()
    return Path(latest).name


A_WORKER = dict(train_dataloader=dict(num_workers=1))


ENDS = [
    # The validation goes on where nothing is saved.
    (Terminate(3, in_validation=True), dict(interval=3), 4),
    # Accumulated gradients are applied first.
    (Terminate(3), dict(optim_wrapper=dict(accumulative_counts=3)), 6),
    *(
        pytest.param(TerminateJob(4), one, 5, marks=needs_sigwaitinfo)
        for one in (A_WORKER, dict(A_WORKER, loop='iterations'))
    ),
]


@pytest.mark.parametrize(('kill', 'settings', 'done'), ENDS)
def test_training_ends_with_a_checkpoint(
    kill: KillAt, settings: dict, done: int, tmp_path: Path
) -> None:
    saved = terminated(kill, build(tmp_path, **settings))
    assert saved == f'preempted_iter_{done}.pth'


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work dir of a run that nobody ends."""
    folder = tmp_path_factory.mktemp('whole')
    runs.seeded(0)
    build(folder).train()
    return folder


RESUMED = [
    (Terminate(4), 'preempted_iter_5.pth'),
    (Terminate(5), 'preempted_iter_6.pth'),  # an epoch's last batch
    (Terminate(6, in_validation=True), 'epoch_2.pth'),
]


@pytest.mark.parametrize(('kill', 'saved'), RESUMED)
def test_resumed_is_uninterrupted(
    kill: KillAt, saved: str, whole: Path, tmp_path: Path
) -> None:
    runs.seeded(0)
    assert terminated(kill, build(tmp_path)) == saved
    runs.seeded(1)
    runs.resume(build(tmp_path))
    # The checkpoint of the signal is gone once there is a later one.
    runs.same_ends(whole, tmp_path, *runs.PARTS)


def test_second_signal_is_the_systems(tmp_path: Path) -> None:
    came: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    hook = PreemptionHook()
    hook.before_train(runs.build_runner(tmp_path, 'epochs'))
    os.kill(os.getpid(), signal.SIGTERM)
    assert came == []
    os.kill(os.getpid(), signal.SIGTERM)
    assert came == [signal.SIGTERM]


class Slow(Dataset):  # type: ignore[type-arg]
    """Eight numbers, plus the offset that the worker's init function set."""

    offset = 0

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        time.sleep(0.05)
        return torch.tensor(index + Slow.offset)


def set_offset(worker_id: int) -> None:
    Slow.offset = 100


@needs_sigwaitinfo
def test_signal_from_elsewhere_ends_no_worker() -> None:
    lasting: Any = dict(num_workers=2, persistent_workers=True)
    loader = DataLoader(Slow(), worker_init_fn=set_offset, **lasting)
    end_with_parent(loader)
    batches = iter(loader)
    # One of each worker: both have begun.
    seen = [int(next(batches)) for _ in range(2)]
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    from_a_shell(*(worker.pid for worker in workers))
    seen += [int(batch) for batch in batches]
    assert seen == [100 + index for index in range(8)]
    assert all(worker.is_alive() for worker in workers)
    for worker in workers:
        worker.terminate()
        worker.join(timeout=20)
        assert worker.exitcode == 0
