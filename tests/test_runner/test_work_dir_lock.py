from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from m2at_mm.runner.work_dir_lock import only_run_in

HOLDER = """
import os, sys, time
from m2at_mm.runner.work_dir_lock import only_run_in
with only_run_in(sys.argv[1]):
    if os.fork() == 0:  # as a dataloader's worker, which may live on
        time.sleep(60)
    print('held', flush=True)
    time.sleep(60)
"""


def holder(work_dir: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, '-c', HOLDER, str(work_dir)],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b'held\n'
    return process


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
