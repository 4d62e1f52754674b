from __future__ import annotations

import random
from pathlib import Path

import pytest

from m2at_mm.interruptions import Training, kill_and_resume

# Writes ten lines of a log, and checkpoints slowly; resumed, it only ends.
SCRIPT = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index('--work-dir') + 1])
if '--resume' in sys.argv:
    (folder / 'resumed').touch()
    sys.exit({code})
log = folder / 'start' / 'vis_data' / 'scalars.json'
log.parent.mkdir(parents=True)
for number in range(10):
    with log.open('a') as file:
        file.write('line\\n')
    beside = folder / '.epoch.pth.unfinished'
    beside.touch()
    time.sleep(0.1)
    beside.unlink()
    time.sleep(0.1)
(folder / 'survived').touch()
"""


def training(tmp_path: Path, code: int = 0) -> Training:
    script = tmp_path / 'train.py'
    script.write_text(SCRIPT.format(code=code))
    return Training([str(script)], seconds_per_line=0.2)


@pytest.mark.parametrize('while_writing', [False, True])
def test_is_killed_and_resumed(while_writing: bool, tmp_path: Path) -> None:
    work_dir = tmp_path / 'run'
    draws = random.Random(1)
    trial = kill_and_resume(
        training(tmp_path), work_dir, 8, while_writing, draws
    )
    assert 0 <= trial.lines < 10
    assert trial.writing or not while_writing
    assert (work_dir / 'resumed').exists()
    assert not (work_dir / 'survived').exists()


def test_a_resumed_training_that_fails_is_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r'exit code 3: see .*output\.txt'):
        kill_and_resume(
            training(tmp_path, 3), tmp_path / 'run', 8, False, random.Random(1)
        )


def test_a_training_that_ends_too_soon_is_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match='before it was to be killed'):
        kill_and_resume(
            Training(['-c', 'pass']), tmp_path, 9, False, random.Random(1)
        )
