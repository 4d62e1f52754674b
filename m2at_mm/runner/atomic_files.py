"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.fileio import LocalBackend, register_backend


def write_whole(
    path: Path, write: Callable[[Path], Any], shared: bool = True
) -> None:
    """Write a file beside its place, then rename it.

    Args:
        path (Path): The place. Its folder is made.
        write (Callable): Writes the file at the path that it is given.
        shared (bool): Whether several processes may write it at a time. Where
            only one does, what a killed process left beside is overwritten.
            Defaults to True.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = f'{os.getpid()}.tmp' if shared else 'unfinished'
    beside = path.with_name(f'.{path.name}.{suffix}')
    try:
        write(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def replace_file(path: str | Path, content: bytes) -> None:
    """Give a file new content, which reaches the disk before its place.

    Whatever happens meanwhile, ``path`` holds its old content or the new one.
    Only one process may write it at a time.

    Args:
        path (str or Path): Its folder is made.
        content (bytes): The new content.

    Raises:
        OSError: It cannot be written; ``path`` is as it was.
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


@register_backend('m2at_mm.atomic_local')
class AtomicLocalBackend(LocalBackend):
    """MMEngine's local files, where ``put`` never leaves half a file.

    By its name in any ``backend_args``:
    ``dict(backend='m2at_mm.atomic_local')``.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes, see :func:`replace_file`."""
        replace_file(filepath, obj)
