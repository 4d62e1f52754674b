from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kill_and_resume.differences import differences

LINES = [dict(loss=1.0, step=1, time=0.5), dict(loss=0.5, step=2, time=0.1)]
AGAIN = [dict(loss=0.5, step=2, time=9.0)]


def work_dir(folder: Path, *starts: list[dict], **changed: Any) -> Path:
    """A finished training of several starts, given by the lines of each."""
    for number, lines in enumerate(starts):
        log = folder / f'2026010{number}_000000' / 'vis_data' / 'scalars.json'
        log.parent.mkdir(parents=True)
        log.write_text('\n'.join(map(json.dumps, lines)), 'utf-8')
    checkpoint = dict(
        state_dict=dict(weight=torch.arange(3.0)),
        meta=dict(time=str(folder)),
        message_hub=dict(last_ckpt=str(folder), loss=[1.0, float('inf')]),
    )
    torch.save(checkpoint | changed, folder / 'epoch_1.pth')
    return folder


def compared(folder: Path, *starts: list[dict], **changed: Any) -> list[str]:
    """Differences from a training of one start."""
    first = work_dir(folder / 'a', LINES)
    return differences(first, work_dir(folder / 'b', *starts, **changed))


def test_a_resumed_training_is_equal(tmp_path: Path) -> None:
    assert compared(tmp_path, LINES, AGAIN) == []


@pytest.mark.parametrize(
    ('change', 'where'),
    [
        (dict(state_dict=dict(weight=torch.tensor([0, 1, 2.0001]))), 'weight'),
        (dict(state_dict=dict(weight=torch.zeros(2))), 'weight'),
        (dict(state_dict=dict(bias=torch.zeros(2))), 'keys'),
        (dict(message_hub=dict(loss=[1.0], last_ckpt='')), '2 and 1 entries'),
        (dict(message_hub=dict(loss=[1.0, 2.0], last_ckpt='')), 'inf and 2'),
        (dict(state_dict=None), 'dict, NoneType'),
        (dict(optimizer={}), 'keys'),
    ],
)
def test_another_checkpoint_is_not(
    change: dict, where: str, tmp_path: Path
) -> None:
    (found,) = compared(tmp_path, LINES, **change)
    assert found.startswith('epoch_1.pth') and where in found


def test_other_logs_and_files_are_not(tmp_path: Path) -> None:
    (tmp_path / 'b').mkdir()
    torch.save({}, tmp_path / 'b' / 'epoch_1-12345678.pth')
    files, logs = compared(tmp_path, LINES[:1])
    assert 'checkpoints' in files and "logs at [('train', 2)]" in logs
