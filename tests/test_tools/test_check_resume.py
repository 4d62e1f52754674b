from __future__ import annotations

import json
from pathlib import Path

import pytest
from tools_support import DIGITS, TINY, run_tool

SHORT = TINY | {
    'train_cfg.max_epochs': 2,
    'train_dataloader.dataset.indices': 96,
}


def words(work_dir: Path, *more: str) -> list[str]:
    options = [f'{key}={value}' for key, value in SHORT.items()]
    return [
        *(str(DIGITS), '--work-dir', str(work_dir), '--runs', '2'),
        *('--cfg-options', *options, *more),
    ]


@pytest.mark.slow
def test_nothing_is_lost(tmp_path: Path) -> None:
    out = tmp_path / 'trials.json'
    said = run_tool(
        'check_resume', '--out', out, '--seed', 1, *words(tmp_path / 'runs')
    )
    assert '2 of 2 equal bit for bit' in said
    assert [trial['differs'] for trial in json.loads(out.read_text())] == [
        [],
        [],
    ]


@pytest.mark.slow
def test_a_training_that_cannot_be_repeated_is_told(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r'[01] of 2 equal bit for bit'):
        run_tool(
            'check_resume',
            *words(tmp_path, 'default_hooks.rng_state.type=IterTimerHook'),
        )


def test_a_folder_with_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'notes.txt').touch()
    with pytest.raises(AssertionError, match='holds files: give an empty'):
        run_tool('check_resume', *words(tmp_path))
