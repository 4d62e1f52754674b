"""Pairwise combinations of what users combine, each trained and checked."""

import os
import traceback
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from two_processes import on_two_processes

from m2at_mm.hooks import RNGStateHook

from .cases import (
    AXES,
    PLAIN,
    REFUSED,
    Case,
    all_pairs,
    is_covered,
    pairwise,
    refusal,
)
from .outcome import build_runner, run
from .training import Seen

CASES = pairwise(seed=0)
ALONE = [case for case in CASES if case['ranks'] == 1]
TOGETHER = [case for case in CASES if case['ranks'] == 2]


def _title(case: Case) -> str:
    return ', '.join(str(case[name]) for name in AXES if name != 'ranks')


def test_every_pair_is_covered(record_property: Any) -> None:
    pairs = [pair for pair in all_pairs() if refusal(pair) is None]
    assert [pair for pair in pairs if not is_covered(pair, CASES)] == []
    record_property('pairs', f'{len(CASES)} combinations, {len(pairs)} pairs')


@pytest.mark.parametrize('case', ALONE, ids=_title)
def test_a_combination(case: Case, tmp_path: Path) -> None:
    assert run(case, tmp_path) == []


def _run_together(folder: str, rank: int) -> dict[str, list[str]]:
    # As torchrun sets it; the processes are connected already.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    found = {}
    for number, case in enumerate(TOGETHER):
        try:
            found[_title(case)] = run(case, Path(folder, str(number)))
        except Exception:
            found[_title(case)] = [traceback.format_exc()]
    return found


def test_combinations_on_two_processes(tmp_path: Path) -> None:
    work = partial(_run_together, str(tmp_path / 'runs'))
    for found in on_two_processes(work, tmp_path):
        assert {title: p for title, p in found.items() if p} == {}
        assert len(found) == len(TOGETHER)


@pytest.mark.parametrize('case', REFUSED, ids=_title)
def test_it_is_refused_at_once(case: Case, tmp_path: Path) -> None:
    seen = Seen()
    with pytest.raises(Exception, match=str(refusal(case))):
        runner = build_runner(case, tmp_path)
        runner.register_hook(seen)
        runner.train()
    assert not seen.losses


def test_a_broken_hook_is_found(tmp_path: Path, monkeypatch: Any) -> None:
    case = dict(PLAIN, method='M2AT', run='killed')
    assert run(case, tmp_path / 'sound') == []
    monkeypatch.setattr(RNGStateHook, 'before_save_checkpoint', Mock())
    problems = run(case, tmp_path / 'broken')
    assert problems and all('after resuming' in one for one in problems)
