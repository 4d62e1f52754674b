"""Kills a training at a random moment, and resumes it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_POLL = 0.0005  # seconds
_PATIENCE = 600.0


@dataclass(frozen=True)
class Training:
    """A training's command line.

    Attributes:
        command (Sequence[str]): Of a tool like tools/train.py, without work
            dir.
        seconds_per_line (float): About the time between two lines of the log.
    """

    command: Sequence[str]
    seconds_per_line: float = 1.0

    def start(self, work_dir: Path, resume: bool) -> subprocess.Popen[bytes]:
        """Start a process, as the leader of a group of its own.

        Args:
            work_dir (Path): Of the training; it is made.
            resume (bool): Whether to go on from its checkpoint.

        Returns:
            subprocess.Popen: Its output goes to ``output.txt`` in the work
            dir.
        """
        work_dir.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, *self.command, '--work-dir', str(work_dir)]
        words += ['--resume'] if resume else []
        with (work_dir / 'output.txt').open('a') as output:
            return subprocess.Popen(
                words,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, work_dir: Path, resume: bool = False) -> None:
        """Run to the end.

        Args:
            work_dir (Path): As for :meth:`start`.
            resume (bool): As for :meth:`start`. Defaults to False.

        Raises:
            RuntimeError: It ended with an error.
        """
        process = self.start(work_dir, resume)
        if process.wait():
            raise RuntimeError(
                f'training ended with exit code {process.returncode}: see '
                f'{work_dir / "output.txt"}'
            )


@dataclass
class Trial:
    """What happened to a training.

    Attributes:
        lines (int): Lines in its log when it was killed.
        writing (bool): Whether a checkpoint was being written.
        differs (list[str]): From the uninterrupted training.
    """

    lines: int
    writing: bool
    differs: list[str] = field(default_factory=list)


def kill_and_resume(
    training: Training,
    work_dir: Path,
    num_lines: int,
    while_writing: bool,
    draws: random.Random,
) -> Trial:
    """Kill a training with SIGKILL, all its processes, and run it to its end.

    Args:
        training (Training): What to run.
        work_dir (Path): Empty or missing.
        num_lines (int): Lines of the whole training's log.
        while_writing (bool): Kill while the next checkpoint is written; else
            at a random time after a random line.
        draws (random.Random): Of the moment.

    Returns:
        Trial: Not compared yet: ``differs`` is empty.

    Raises:
        RuntimeError: The training ended by itself before its moment.
    """
    process = training.start(work_dir, resume=False)
    # A checkpoint must follow the line.
    line = draws.randrange(num_lines // 2 if while_writing else num_lines)
    _wait(process, lambda: count_lines(work_dir) >= line)
    if while_writing:
        _wait(process, lambda: _is_writing(work_dir))
    else:
        time.sleep(draws.uniform(0, training.seconds_per_line))
    writing = _is_writing(work_dir)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    trial = Trial(count_lines(work_dir), writing)
    training.finish(work_dir, resume=True)
    return trial


def count_lines(work_dir: Path) -> int:
    """Count the lines in the logs of all starts.

    Args:
        work_dir (Path): Of the training.

    Returns:
        int: 0 before its first line.
    """
    return sum(
        path.read_bytes().count(b'\n')
        for path in work_dir.glob('*/vis_data/scalars.json')
    )


def _is_writing(work_dir: Path) -> bool:
    return any(work_dir.glob('.*.pth.unfinished'))


def _wait(
    process: subprocess.Popen[bytes], reached: Callable[[], bool]
) -> None:
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
