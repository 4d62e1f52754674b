import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from check_resume import differences, kill_and_resume
from tools_support import DIGITS, TINY, cli_options, run_tool

SHORT = {'train_cfg.max_epochs': 2, 'train_dataloader.dataset.indices': 96}


def check(folder: Path, *words: Any, **options: Any) -> str:
    words = (DIGITS, '--work-dir', folder, '--runs', 2, *words)
    return run_tool('check_resume', *words, *cli_options(TINY, SHORT, options))


@pytest.mark.slow
def test_nothing_is_lost(tmp_path: Path) -> None:
    out = tmp_path / 'trials.json'
    said = check(tmp_path / 'runs', '--out', out, '--seed', 1)
    assert '2 of 2 equal bit for bit' in said
    trials = json.loads(out.read_text())
    assert [trial['differs'] for trial in trials] == [[], []]


@pytest.mark.slow
def test_a_training_that_cannot_be_repeated_is_told(tmp_path: Path) -> None:
    hook = {'default_hooks.rng_state.type': 'IterTimerHook'}
    with pytest.raises(AssertionError, match=r'[01] of 2 equal bit for bit'):
        check(tmp_path, **hook)


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


LINES = [dict(loss=1.0, step=1, time=0.5), dict(loss=0.5, step=2, time=0.1)]
AGAIN = [dict(loss=0.5, step=2, time=9.0)]


def work_dir(folder: Path, *starts: list[dict], **changed: Any) -> Path:
    """A finished training of several starts, given by the lines of each."""
    for number, lines in enumerate(starts):
        log = folder / f'2026010{number}_000000' / 'vis_data' / 'scalars.json'
        log.parent.mkdir(parents=True)
        log.write_text('\n'.join(map(json.dumps, lines)), 'utf-8')
    hub = dict(last_ckpt=str(folder), loss=[1.0, float('inf')])
    checkpoint = dict(meta=dict(time=str(folder)), message_hub=hub)
    checkpoint['state_dict'] = dict(weight=torch.arange(3.0))
    torch.save(checkpoint | changed, folder / 'epoch_1.pth')
    return folder


def compared(folder: Path, *starts: list[dict], **changed: Any) -> list[str]:
    """Differences from a training of one start."""
    first = work_dir(folder / 'a', LINES)
    return differences(first, work_dir(folder / 'b', *starts, **changed))


CHANGES = [
    (dict(state_dict=dict(weight=torch.tensor([0, 1, 2.0001]))), 'weight'),
    (dict(state_dict=dict(weight=torch.zeros(2))), 'weight'),
    (dict(state_dict=dict(bias=torch.zeros(2))), 'keys'),
    (dict(message_hub=dict(loss=[1.0], last_ckpt='')), '2 and 1 entries'),
    (dict(message_hub=dict(loss=[1.0, 2.0], last_ckpt='')), 'inf and 2'),
    (dict(state_dict=None), 'dict, NoneType'),
    (dict(optimizer={}), 'keys'),
]


@pytest.mark.parametrize(('change', 'where'), CHANGES)
def test_another_checkpoint(change: Any, where: str, tmp_path: Path) -> None:
    (found,) = compared(tmp_path, LINES, **change)
    assert found.startswith('epoch_1.pth') and where in found


def test_a_resumed_training_is_equal_but_no_other(tmp_path: Path) -> None:
    assert compared(tmp_path / 'same', LINES, AGAIN) == []
    (tmp_path / 'b').mkdir()
    torch.save({}, tmp_path / 'b' / 'epoch_1-12345678.pth')
    files, logs = compared(tmp_path, LINES[:1])
    assert 'checkpoints' in files and "logs at [('train', 2)]" in logs
