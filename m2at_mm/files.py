"""Files of a run: written whole, its checkpoints, the lock of its folder."""

import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows, where no run is kept out
    fcntl = None  # type: ignore[assignment]

# The rank, as torchrun, Slurm and Open MPI tell it.
_RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')


def write_whole(
    path: Path, write: Callable[[Path], Any], shared: bool = True
) -> None:
    """Write a file beside its place, then rename it; its folder is made.

    If only one process writes it at a time, it is not ``shared``: what a
    killed one left beside is overwritten.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = f'{os.getpid()}.tmp' if shared else 'unfinished'
    beside = path.with_name(f'.{path.name}.{mark}')
    try:
        write(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, see :func:`write_whole`."""
    write_whole(path, lambda beside: beside.write_text(text, encoding='utf-8'))


def replace_file(path: str | Path, content: bytes) -> None:
    """Write a file, by one process at a time, to the disk before its place.

    Raises:
        OSError: The file cannot be written; it is as it was.
    """

    def write(beside: Path) -> None:
        with beside.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    try:
        write_whole(Path(path), write, shared=False)
    except OSError as error:
        raise OSError(
            error.errno,
            f'{error.strerror}; what was saved before is whole: make room or '
            'give another work_dir, and go on with --resume',
            str(path),
        ) from error


def name_last_checkpoint(work_dir: str, checkpoint: str) -> None:
    """Write down which checkpoint ``--resume`` goes on from."""
    replace_file(Path(work_dir) / 'last_checkpoint', checkpoint.encode())


def last_checkpoint(work_dir: Path) -> Path | None:
    """The checkpoint that ``last_checkpoint`` names, None if there is none."""
    note = work_dir / 'last_checkpoint'
    if not note.is_file():
        return None
    path = Path(note.read_text(encoding='utf-8').strip())
    places = (work_dir / path.name, path)  # the folder may have been moved
    return next(filter(Path.is_file, places), None)


def best_checkpoint(work_dir: Path) -> Path | None:
    """The newest ``best_*.pth`` that is no copy made for publishing."""
    copy = re.compile(r'-[0-9a-f]{8}\.pth$')
    found = (p for p in work_dir.glob('best_*.pth') if not copy.search(p.name))
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


@contextmanager
def only_run_in(work_dir: str) -> Iterator[None]:
    """Keep other runs, which would write the same files, out of a work dir.

    It is made. The first process of a run holds the lock until it ends.

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
        told = f'work_dir={work_dir!r} is a file: give a folder'
        raise NotADirectoryError(told)
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
