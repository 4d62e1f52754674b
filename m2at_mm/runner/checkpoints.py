"""The checkpoints that a training left in its work dir."""

from __future__ import annotations

import re
from pathlib import Path


def best_checkpoint(folder: Path) -> Path | None:
    """The newest ``best_*.pth`` that is not a copy made for publishing.

    Args:
        folder (Path): Work dir of a training.

    Returns:
        Path, optional: None if there is none.
    """
    found = [
        path
        for path in folder.glob('best_*.pth')
        if not re.search(r'-[0-9a-f]{8}$', path.stem)
    ]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that ``last_checkpoint`` names.

    Args:
        folder (Path): Work dir of a training; it may have been moved since.

    Returns:
        Path, optional: None if there is none.
    """
    note = folder / 'last_checkpoint'
    if not note.is_file():
        return None
    path = Path(note.read_text(encoding='utf-8').strip())
    beside = folder / path.name
    return next((one for one in (beside, path) if one.is_file()), None)
