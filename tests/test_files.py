import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from lock_holder import holder

from m2at_mm import files
from m2at_mm.files import best_checkpoint, last_checkpoint, only_run_in


def names(folder: Path) -> list[str]:
    return [found.name for found in folder.iterdir()]


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, 'No space left on device')


def half(beside: Path) -> None:
    beside.write_text('half')
    full_disk()


@pytest.mark.parametrize('failing', [None, 'fsync', 'replace', 'writing'])
def test_new_or_old(failing: Any, tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / 'new' / 'a.pth'
    files.replace_file(path, b'longer old content')
    if failing is None:
        files.replace_file(path, b'new')
    elif failing == 'writing':
        with pytest.raises(OSError, match='No space'):
            files.write_whole(path, half)
    else:
        monkeypatch.setattr(os, failing, full_disk)
        with pytest.raises(OSError, match=r'whole: make room') as error:
            files.replace_file(path, b'new')
        assert error.value.errno == errno.ENOSPC
        assert error.value.filename == str(path)
    content = path.read_bytes()
    assert content == (b'longer old content' if failing else b'new')
    assert names(path.parent) == ['a.pth']


def test_newest_best_checkpoint_that_is_no_copy(tmp_path: Path) -> None:
    assert best_checkpoint(tmp_path) is None
    stems = ('best_a_epoch_9', 'best_a_epoch_12', 'best_a_epoch_12-0123abcd')
    for when, stem in enumerate(stems):
        path = tmp_path / f'{stem}.pth'
        path.touch()
        os.utime(path, (when, when))
    assert best_checkpoint(tmp_path) == tmp_path / 'best_a_epoch_12.pth'


def test_last_checkpoint(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / 'run', tmp_path / 'epoch_4.pth'
    folder.mkdir()
    elsewhere.touch()
    assert last_checkpoint(folder) is None
    note = folder / 'last_checkpoint'
    note.write_text('/gone/epoch_3.pth\n')
    assert last_checkpoint(folder) is None
    beside = folder / 'epoch_3.pth'  # the folder was moved
    beside.touch()
    assert last_checkpoint(folder) == beside
    note.write_text(str(elsewhere))
    assert last_checkpoint(folder) == elsewhere


def test_second_run_is_kept_out(tmp_path: Path, monkeypatch: Any) -> None:
    folder = str(tmp_path / 'a' / 'b')
    with holder(Path(folder)) as pid:
        told = f'in use by process {pid} on .*another'
        with pytest.raises(RuntimeError, match=told), only_run_in(folder):
            pass
        monkeypatch.setenv('RANK', '1')
        with only_run_in(folder):  # another rank needs no lock
            pass
        monkeypatch.delenv('RANK')
        os.kill(pid, signal.SIGKILL)  # its child lives on
        os.waitpid(pid, 0)
        with only_run_in(folder):
            text = Path(folder, '.lock').read_text('utf-8')
            assert text.startswith(f'process {os.getpid()} on ')
