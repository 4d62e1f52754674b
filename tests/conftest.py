"""Fixtures that several test files share."""

from __future__ import annotations

import os
import tarfile
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _unpack(archive: Path, target: Path) -> None:
    """Unpack beside the target and rename, so that parallel runs agree."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as tmp:
        folder = Path(tmp, 'cifar10')
        with tarfile.open(archive) as tar:
            tar.extractall(folder)
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():  # Else another run was faster.
                raise


@pytest.fixture(scope='session')
def cifar10_root() -> Path:
    """Folder of the real CIFAR-10 images, `{train,test}/<class>/*`."""
    if 'CIFAR10_ROOT' in os.environ:
        return Path(os.environ['CIFAR10_ROOT'])
    root = ROOT / 'data' / 'cifar10'
    archive = ROOT.parent / 'shared' / 'data' / 'cifar10-images.tar.xz'
    if not root.is_dir():
        if not archive.is_file():
            pytest.skip(f'no CIFAR-10 in $CIFAR10_ROOT, {root} or {archive}')
        _unpack(archive, root)
    return root
