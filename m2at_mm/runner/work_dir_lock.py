"""A work dir is for one run at a time."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where no run is kept out
    fcntl = None  # type: ignore[assignment]

# The rank, as torchrun, Slurm and Open MPI tell it.
_RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')


@contextmanager
def only_run_in(work_dir: str) -> Iterator[None]:
    """Keep other runs out of a work dir until this one ends.

    Two runs would write the same checkpoints. The system gives the lock back
    when the process ends, however it does. Of several processes of one run,
    the first one holds it.

    Args:
        work_dir (str): Made if it is not there.

    Raises:
        RuntimeError: Another run is in it.
        NotADirectoryError: It is a file.
    """
    rank = next((os.environ[key] for key in _RANKS if key in os.environ), '0')
    if fcntl is None or int(rank) != 0:
        yield
        return
    folder = Path(work_dir)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            f'work_dir={work_dir!r} is a file: give a folder'
        )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / '.lock').open('a+') as file:
        try:
            # Not flock, which workers of dataloaders would hold, too.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise RuntimeError(
                f'work_dir={work_dir!r} is in use by {file.read().strip()}: '
                'wait for its end or give another --work-dir'
            ) from error
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}')
        file.flush()
        yield
