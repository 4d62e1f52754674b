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


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return work_dir(tmp_path / 'a', LINES)


def test_a_resumed_training_is_equal(first: Path, tmp_path: Path) -> None:
    assert differences(first, work_dir(tmp_path / 'b', LINES, AGAIN)) == []


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
    change: dict, where: str, first: Path, tmp_path: Path
) -> None:
    found = differences(first, work_dir(tmp_path / 'b', LINES, **change))
    assert len(found) == 1 and where in found[0]
    assert found[0].startswith('epoch_1.pth')


def test_other_logs_and_files_are_not(first: Path, tmp_path: Path) -> None:
    other = work_dir(tmp_path / 'b', LINES[:1])
    torch.save({}, other / 'epoch_1-12345678.pth')
    found = differences(first, other)
    assert len(found) == 2
    assert 'checkpoints' in found[0] and "logs at [('train', 2)]" in found[1]
