"""Another run in a work dir."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from m2at_mm.files import only_run_in


@contextmanager
def holder(work_dir: Path) -> Iterator[int]:
    """The id of a process that holds the lock, the first of its group."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            with only_run_in(str(work_dir)):
                os.fork()  # as a dataloader's worker, which may live on
                os.write(writing, b'.')
                time.sleep(60)
        finally:
            os._exit(0)
    os.close(writing)
    try:
        assert os.read(reading, 1) == b'.'
        yield pid
    finally:
        os.close(reading)
        os.killpg(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
