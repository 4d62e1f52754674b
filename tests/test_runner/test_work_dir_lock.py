from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from lock_holder import holder

from m2at_mm.runner.work_dir_lock import only_run_in


def test_second_run_is_kept_out_until_the_first_is_dead(
    tmp_path: Path,
) -> None:
    process = holder(tmp_path)
    try:
        with pytest.raises(
            RuntimeError, match=f'in use by process {process.pid} on .*another'
        ):
            with only_run_in(str(tmp_path)):
                pass
        os.kill(process.pid, signal.SIGKILL)  # its child lives on
        process.wait()
        with only_run_in(str(tmp_path)):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_other_ranks_of_a_run_need_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = holder(tmp_path)
    monkeypatch.setenv('RANK', '1')
    try:
        with only_run_in(str(tmp_path)):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_makes_the_folder(tmp_path: Path) -> None:
    with only_run_in(str(tmp_path / 'a' / 'b')):
        text = (tmp_path / 'a' / 'b' / '.lock').read_text('utf-8')
        assert text.startswith(f'process {os.getpid()} on ')
