"""Another run in a work dir."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
    """Start a process, the first of its group, that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, '-c', HOLDER, str(work_dir)],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b'held\n'
    return process
