"""Kills a training at a random moment, and resumes it."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_POLL = 0.0005  # seconds
_PATIENCE = 600.0

Process = subprocess.Popen[bytes]


def start(command: Sequence[str], work_dir: Path) -> Process:
    """Start a training as the leader of a process group of its own.

    The command has the words after ``python``, of a tool like tools/train.py,
    without work dir. This is made; ``output.txt`` in it gets the output.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    with (work_dir / 'output.txt').open('a') as output:
        return subprocess.Popen(
            [sys.executable, *command, '--work-dir', str(work_dir)],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run_to_end(command: Sequence[str], work_dir: Path) -> None:
    """Run a training to its end, see :func:`start`.

    Raises:
        RuntimeError: It ended with an error.
    """
    if code := start(command, work_dir).wait():
        raise RuntimeError(
            f'training ended with exit code {code}: see '
            f'{work_dir / "output.txt"}'
        )


def kill_and_resume(
    command: Sequence[str],
    work_dir: Path,
    num_lines: int,
    pause: float | None,
    draws: random.Random,
) -> tuple[int, bool]:
    """Kill a training with SIGKILL, all its processes, and run it to its end.

    It is killed within ``pause`` seconds after a random line of the log, which
    has ``num_lines`` in all; with None, while the next checkpoint is written.
    Gives the lines in the log at that moment, and whether a checkpoint was
    being written.

    Raises:
        RuntimeError: The training ended by itself before its moment.
    """
    process = start(command, work_dir)
    # A checkpoint must follow the line.
    line = draws.randrange(num_lines // 2 if pause is None else num_lines)
    _wait(process, lambda: count_lines(work_dir) >= line)
    if pause is None:
        _wait(process, lambda: _is_writing(work_dir))
    else:
        time.sleep(draws.uniform(0, pause))
    writing = _is_writing(work_dir)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    lines = count_lines(work_dir)
    run_to_end([*command, '--resume'], work_dir)
    return lines, writing


def count_lines(work_dir: Path) -> int:
    """Lines in the logs of all starts, 0 before the first one."""
    return sum(
        path.read_bytes().count(b'\n')
        for path in work_dir.glob('*/vis_data/scalars.json')
    )


def _is_writing(work_dir: Path) -> bool:
    return any(work_dir.glob('.*.pth.unfinished'))


def _wait(process: Process, reached: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE
    while not reached():
        if process.poll() is not None:
            raise RuntimeError(
                f'training ended with exit code {process.returncode} before '
                'it was to be killed'
            )
        if time.monotonic() > end:
            process.kill()
            raise RuntimeError(f'no progress within {_PATIENCE:g} s')
        time.sleep(_POLL)
