from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from config_coverage import workers
from config_coverage.attempt import Outcome


def test_attempts_run_apart_and_within_their_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def pretended(config: str, recipe: str, images: Path) -> Outcome:
        if config == 'dies':
            os._exit(3)
        time.sleep(dict(hangs=60.0, slow=0.3).get(config, 0))
        return Outcome(config, recipe, 'works', note=str(os.getpid()))

    monkeypatch.setattr(workers, 'try_config', pretended)
    configs = ['slow', 'dies', 'hangs', 'fast']
    start = time.perf_counter()
    found = list(workers.run_all(configs, 'm2at', Path(), seconds=3))
    assert time.perf_counter() - start < 30
    assert [one.config for one in found] == configs
    slow, dies, hangs, fast = found
    assert slow.status == fast.status == 'works'
    assert dies.status == hangs.status == 'fails'
    assert 'exit code 3' in dies.note
    assert 'within 3 s' in hangs.note
    assert len({slow.note, fast.note, str(os.getpid())}) == 3
