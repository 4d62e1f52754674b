from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from m2at_mm.coverage import Limits, Outcome, run_all, workers


def test_attempts_run_apart_and_within_their_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def pretended(config: str, recipe: str, images: Path) -> Outcome:
        if config == 'dies':
            os._exit(3)
        if config == 'hangs':
            time.sleep(60)
        time.sleep(0.3 * (config == 'slow'))
        return Outcome(config, recipe, 'works', note=str(os.getpid()))

    monkeypatch.setattr(workers, 'try_config', pretended)
    configs = ['slow', 'dies', 'hangs', 'fast']
    start = time.perf_counter()
    found = list(run_all(configs, 'm2at', Path(), Limits(seconds=3)))
    assert time.perf_counter() - start < 30
    assert [one.config for one in found] == configs
    assert [one.status for one in found] == [
        'works',
        'fails',
        'fails',
        'works',
    ]
    assert 'exit code 3' in found[1].note
    assert 'within 3 s' in found[2].note
    assert len({found[0].note, found[3].note, str(os.getpid())}) == 3
