from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from kill_and_resume.trial import kill_and_resume

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
    log.write_text('line\\n' * (number + 1))
    (folder / '.epoch.pth.unfinished').touch()
    time.sleep(0.1)
    (folder / '.epoch.pth.unfinished').unlink()
    time.sleep(0.1)
(folder / 'survived').touch()
"""


def trial(folder: Path, code: str, pause: float | None = 0.2) -> Any:
    return kill_and_resume(['-c', code], folder, 8, pause, random.Random(1))


@pytest.mark.parametrize('pause', [0.2, None])
def test_is_killed_and_resumed(pause: float | None, tmp_path: Path) -> None:
    lines, writing = trial(tmp_path, SCRIPT.format(code=0), pause)
    assert 0 <= lines < 10
    assert writing or pause is not None
    assert (tmp_path / 'resumed').exists()
    assert not (tmp_path / 'survived').exists()


def test_a_training_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r'exit code 3: see .*output\.txt'):
        trial(tmp_path / 'a', SCRIPT.format(code=3))
    with pytest.raises(RuntimeError, match='before it was to be killed'):
        trial(tmp_path / 'b', 'pass')
