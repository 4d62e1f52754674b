"""A clean end when a scheduler takes the machine back."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from m2at_mm.checks import check_count
from m2at_mm.files import name_last_checkpoint
from m2at_mm.hooks.collapse_guard_hook import CollapseGuardHook
from m2at_mm.hooks.rng_state_hook import RNGStateHook
from m2at_mm.hooks.stock_hooks import ATOMIC_LOCAL
from m2at_mm.registry import HOOKS
from m2at_mm.runner.train_loops import is_training

#: 128 + SIGTERM, as shells write it.
EXIT_CODE = 143
_KEY = 'preemption_ckpt'


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Save a checkpoint and end with exit code 143 on SIGTERM.

    The iteration is finished first, and accumulated gradients are applied. In
    a validation the run ends at once if the epoch's checkpoint is there, else
    after it. A second SIGTERM ends the process as without this hook. With
    :class:`m2at_mm.ResumableEpochTrainLoop` and
    :class:`m2at_mm.RNGStateHook`, ``--resume`` goes on with the next batch.

    Args:
        interval (int): With several processes, the iterations after which
            they ask each other for the signal.

    Raises:
        SystemExit: SIGTERM came; with code 143.
    """

    # After the CheckpointHook, which may save the same iteration.
    priority = 'LOWEST'

    def __init__(self, interval: int = 10) -> None:
        check_count('interval', interval)
        self.interval = interval
        self._asked = False
        self._stock_handler: Any = None
        self._last_ckpt: str | None = None
        self._saved_iter = -1
        self._left_over: str | None = None

    def before_run(self, runner: Runner) -> None:
        # Schedulers send the signal to them, too.
        if is_training(runner):
            end_with_parent(runner.train_dataloader)
            if runner.val_loop is not None:
                end_with_parent(runner.val_dataloader)

    def before_train(self, runner: Runner) -> None:
        self._left_over = runner.message_hub.runtime_info.get(_KEY)
        self._last_ckpt = runner.message_hub.runtime_info.get('last_ckpt')
        try:
            self._stock_handler = signal.signal(signal.SIGTERM, self._remember)
        except ValueError:
            print_log(
                'training runs in a thread, which no signal reaches: SIGTERM '
                'will end it without a checkpoint',
                logger='current',
            )

    def after_train(self, runner: Runner) -> None:
        if self._stock_handler is not None:
            signal.signal(signal.SIGTERM, self._stock_handler)
            self._stock_handler = None

    def _remember(self, *_: Any) -> None:
        if self._asked:
            # Nobody acted on the first one, or not soon enough.
            signal.signal(signal.SIGTERM, self._stock_handler)
            os.kill(os.getpid(), signal.SIGTERM)
        self._asked = True

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        done = runner.iter + 1
        self._look_at_checkpoint(runner, done)
        interval = self.interval if dist.get_world_size() > 1 else 1
        due = self.every_n_train_iters(runner, interval)
        # Gradients that are being accumulated are in no checkpoint.
        if due and runner.optim_wrapper.should_update():
            asked = torch.tensor(float(self._asked))
            dist.all_reduce(asked, 'max')
            if asked:
                if self._saved_iter != done:
                    _save(runner)
                self._end(runner, done)

    def after_train_epoch(self, runner: Runner) -> None:
        self._look_at_checkpoint(runner, runner.iter)

    def after_val_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        saved = self._saved_iter == runner.iter
        if saved and self._asked and dist.get_world_size() == 1:
            self._end(runner, runner.iter)

    def _look_at_checkpoint(self, runner: Runner, done: int) -> None:
        """Note the CheckpointHook's last; this hook's own is outdated then."""
        last = runner.message_hub.runtime_info.get('last_ckpt')
        if last == self._last_ckpt:
            return
        self._last_ckpt, self._saved_iter = last, done
        if self._left_over is not None and dist.is_main_process():
            Path(self._left_over).unlink(missing_ok=True)
        self._left_over = None

    def _end(self, runner: Runner, done: int) -> None:
        runner.logger.warning(
            f'SIGTERM: training ends after {done} iterations; it goes on with '
            '--resume'
        )
        self.after_train(runner)
        raise SystemExit(EXIT_CODE)


def _save(runner: Runner) -> None:
    for hook in runner.hooks:
        if isinstance(hook, CollapseGuardHook):
            hook.look_at_losses(runner)
        if isinstance(hook, RNGStateHook):
            hook.gather(runner, at_epoch_end=False)
    name = f'preempted_iter_{runner.iter + 1}.pth'
    path = str(Path(runner.work_dir) / name)
    runner.message_hub.update_info(_KEY, path)
    how: Any = dict(by_epoch=False, backend_args=dict(backend=ATOMIC_LOCAL))
    runner.save_checkpoint(runner.work_dir, name, **how)
    if dist.is_main_process():
        name_last_checkpoint(runner.work_dir, path)


def end_with_parent(dataloader: DataLoader[Any]) -> None:
    """Let the workers of a dataloader end by SIGTERM of their parent alone.

    Otherwise it would raise before the training can save. Workers that run
    already, or on macOS, stay as before.
    """
    if hasattr(signal, 'sigwaitinfo'):
        stock = dataloader.worker_init_fn
        dataloader.worker_init_fn = partial(_start_worker, stock)


def _start_worker(stock: Callable[[int], None] | None, worker_id: int) -> None:
    # Threads that start from now on leave the signal to this one, too.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    Thread(target=_wait_for_parent, daemon=True).start()
    if stock is not None:
        stock(worker_id)


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass
    os._exit(0)
