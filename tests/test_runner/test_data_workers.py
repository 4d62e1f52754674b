from __future__ import annotations

import multiprocessing
import os
import signal
import time
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from m2at_mm.runner.data_workers import end_with_parent

pytestmark = pytest.mark.skipif(
    not hasattr(signal, 'sigwaitinfo'), reason='no sigwaitinfo'
)


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


def test_signal_from_elsewhere_ends_no_worker() -> None:
    loader = DataLoader(
        Slow(),
        num_workers=2,
        persistent_workers=True,
        worker_init_fn=set_offset,
    )
    end_with_parent(loader)
    batches = iter(loader)
    # One of each worker: both have begun.
    seen = [int(next(batches)) for _ in range(2)]
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    # From a shell, which is not their parent.
    words = ' '.join(str(worker.pid) for worker in workers)
    assert os.system(f'kill -TERM {words}') == 0
    seen += [int(batch) for batch in batches]
    assert seen == [100 + index for index in range(8)]
    assert all(worker.is_alive() for worker in workers)
    for worker in workers:
        worker.terminate()
        worker.join(timeout=20)
        assert worker.exitcode == 0
