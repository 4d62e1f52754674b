"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Union

from mmengine.fileio import LocalBackend, register_backend


def replace_file(path: Union[str, Path], content: bytes) -> None:
    """Write a file beside its place, then put it there.

    Whatever happens meanwhile, ``path`` holds its old content or the new one.

    Args:
        path (str or Path): Its folder must exist.
        content (bytes): The new content.

    Raises:
        OSError: It cannot be written; ``path`` is as it was.
    """
    path = Path(path)
    beside = path.with_name(f'.{path.name}.unfinished')
    try:
        with beside.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(
            error.errno,
            f'{error.strerror}; what was saved before is whole: make room or '
            'give another work_dir, and go on with --resume',
            str(path),
        ) from error


@register_backend('m2at_mm.atomic_local')
class AtomicLocalBackend(LocalBackend):
    """MMEngine's local files, where ``put`` never leaves half a file.

    By its name in any ``backend_args``:
    ``dict(backend='m2at_mm.atomic_local')``.
    """

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Write bytes, see :func:`replace_file`."""
        Path(filepath).parent.mkdir(parents=True, exist_ok=True)
        replace_file(filepath, obj)
