from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
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
