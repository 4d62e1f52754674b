from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from mmengine.fileio import get_file_backend

from m2at_mm.runner.atomic_files import (
    AtomicLocalBackend,
    replace_file,
    write_whole,
)


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, 'No space left on device')


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / 'file.txt'
    path.write_text('old')

    def fail(beside: Path) -> None:
        beside.write_text('half')
        raise OSError('no space left on device')

    with pytest.raises(OSError, match='no space'):
        write_whole(path, fail)
    assert path.read_text() == 'old'
    assert [file.name for file in tmp_path.iterdir()] == ['file.txt']


def test_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    for content in (b'long content', b'short'):
        replace_file(path, content)
        assert path.read_bytes() == content
    assert [found.name for found in tmp_path.iterdir()] == ['a.pth']


@pytest.mark.parametrize('step', ['fsync', 'replace'])
def test_a_failure_leaves_the_old_file(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'a.pth'
    replace_file(path, b'old')
    monkeypatch.setattr(os, step, full_disk)
    with pytest.raises(OSError, match=r'whole: make room') as error:
        replace_file(path, b'new')
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(path)
    assert [found.name for found in tmp_path.iterdir()] == ['a.pth']
    assert path.read_bytes() == b'old'


def test_backend_is_found_by_its_name(tmp_path: Path) -> None:
    args = dict(backend='m2at_mm.atomic_local')
    backend = get_file_backend(str(tmp_path), backend_args=args)
    assert isinstance(backend, AtomicLocalBackend)
    path = tmp_path / 'new' / 'folder' / 'a.pth'
    backend.put(b'content', path)
    assert backend.get(path) == b'content'
