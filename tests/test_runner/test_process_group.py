from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from tools_support import free_port
from torch import distributed

from m2at_mm.runner.process_group import (
    connect_processes,
    resume_after_restart,
)

RESTARTS = 'TORCHELASTIC_RESTART_COUNT'


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU, and not started by torchrun."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', RESTARTS):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
def test_launchers_that_lack_something(launcher: str) -> None:
    with pytest.raises(RuntimeError, match=f"launcher='{launcher}'.*torchrun"):
        connect_processes(launcher)
    assert not distributed.is_initialized()


@pytest.mark.parametrize(
    ('launcher', 'on_gpu'), [('none', False), ('pytorch', True)]
)
def test_what_mmengine_does_itself(
    launcher: str, on_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: on_gpu)
    connect_processes(launcher)
    assert not distributed.is_initialized()


@pytest.mark.skipif(sys.platform == 'win32', reason='gloo by environment')
def test_without_a_gpu_the_process_group_is_gloo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('WORLD_SIZE', '1')
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    monkeypatch.setenv('MASTER_PORT', str(free_port()))
    try:
        connect_processes('pytorch')
        assert distributed.get_backend() == 'gloo'
        connect_processes('pytorch')  # It is there already.
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            distributed.destroy_process_group()


def test_a_restart_does_not_see_what_was_left_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a GPU, too; what it would call there is recorded."""
    store = distributed.HashStore()
    store.set('0', 'address of a dead process')
    called: dict[str, Any] = {}

    def start(backend: str, **settings: Any) -> None:
        called.update(settings, backend=backend)

    for module, name, function in (
        (torch.cuda, 'is_available', lambda: True),
        (torch.cuda, 'set_device', lambda rank: called.update(device=rank)),
        (distributed, 'rendezvous', lambda url: iter([(store, 1, 4)])),
        (distributed, 'init_process_group', start),
    ):
        monkeypatch.setattr(module, name, function)
    for name, value in ((RESTARTS, '2'), ('RANK', '1'), ('LOCAL_RANK', '1')):
        monkeypatch.setenv(name, value)
    connect_processes('pytorch', dict(backend='nccl', timeout=60))
    assert (called['device'], called['backend']) == (1, 'nccl')
    assert (called['rank'], called['world_size']) == (1, 4)
    assert called['timeout'].total_seconds() == 60
    assert not called['store'].check(['0']) and store.check(['0'])


@pytest.mark.parametrize('restarts', [None, '0', '2'])
@pytest.mark.parametrize('saved', [False, True])
def test_resumes_after_a_restart(
    restarts: str | None,
    saved: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if restarts is not None:
        monkeypatch.setenv(RESTARTS, restarts)
    if saved:
        (tmp_path / 'last_checkpoint').write_text('epoch_1.pth')
    given = dict(work_dir=str(tmp_path), resume=False, load_from='stock.pth')
    cfg = Config(given)
    resume_after_restart(cfg)
    if restarts == '2' and saved:
        given.update(resume=True, load_from=None)
    assert cfg.to_dict() == given
