"""Data workers that a scheduler's SIGTERM doesn't end before the training."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from threading import Thread
from typing import Any

from torch.utils.data import DataLoader


def end_with_parent(dataloader: DataLoader[Any]) -> None:
    """Let the workers of a dataloader end by SIGTERM of their parent alone.

    Schedulers send SIGTERM to all processes of a job, ``timeout`` to a whole
    process group. A data worker that ends by it lets the dataloader raise a
    RuntimeError before the training can save anything. Workers that run
    already, as those of MMEngine's loops by iteration do, are as before, and
    so are all on a system without ``sigwaitinfo``, as macOS.

    Args:
        dataloader (DataLoader): Its workers are not started yet. Its
            ``worker_init_fn`` is called as before.
    """
    if hasattr(signal, 'sigwaitinfo'):
        dataloader.worker_init_fn = _WaitForParent(dataloader.worker_init_fn)


class _WaitForParent:
    """A ``worker_init_fn`` around another; sent to workers by pickling."""

    def __init__(self, inner: Callable[[int], None] | None) -> None:
        self.inner = inner

    def __call__(self, worker_id: int) -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        # Threads that start from now on leave the signal to this one, too.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_wait_for, args=(parent.pid,), daemon=True).start()
        if self.inner is not None:
            self.inner(worker_id)


def _wait_for(parent: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
