from __future__ import annotations

import sys
import warnings
from typing import Any

import pytest
import torch
from tools_support import free_port
from torch import distributed

from m2at_mm.runner.process_group import connect_processes


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU, and not started by torchrun."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    for name in (
        'RANK',
        'LOCAL_RANK',
        'WORLD_SIZE',
        'TORCHELASTIC_RESTART_COUNT',
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures('no_launcher')
def test_launcher_without_torchrun() -> None:
    with pytest.raises(RuntimeError, match=r"launcher='pytorch'.*torchrun"):
        connect_processes('pytorch')

    assert not distributed.is_initialized()


@pytest.mark.usefixtures('no_launcher')
def test_no_launcher_needs_no_process_group() -> None:
    connect_processes('none')

    assert not distributed.is_initialized()


@pytest.mark.usefixtures('no_launcher')
def test_with_a_gpu_mmengine_starts_the_process_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    connect_processes('pytorch')

    assert not distributed.is_initialized()


@pytest.mark.skipif(sys.platform == 'win32', reason='gloo by environment')
@pytest.mark.usefixtures('no_launcher')
def test_without_a_gpu_the_process_group_is_gloo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = dict(
        RANK='0',
        WORLD_SIZE='1',
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(free_port()),
    )
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    try:
        connect_processes('pytorch')
        assert distributed.get_backend() == 'gloo'
        connect_processes('pytorch')  # It is there already.
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            distributed.destroy_process_group()


@pytest.mark.parametrize('launcher', ['slurm', 'mpi'])
@pytest.mark.usefixtures('no_launcher')
def test_launchers_of_gpus_need_one(launcher: str) -> None:
    with pytest.raises(RuntimeError, match=f"launcher='{launcher}'.*torchrun"):
        connect_processes(launcher)


@pytest.mark.usefixtures('no_launcher')
def test_a_restart_does_not_see_what_was_left_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a GPU, too; what it would call there is recorded."""
    store = distributed.HashStore()
    store.set('0', 'address of a dead process')
    called: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(
        torch.cuda, 'set_device', lambda rank: called.update(device=rank)
    )
    monkeypatch.setattr(
        distributed, 'rendezvous', lambda url: iter([(store, 1, 4)])
    )
    monkeypatch.setattr(
        distributed,
        'init_process_group',
        lambda backend, **settings: called.update(backend=backend, **settings),
    )
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '2')
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('LOCAL_RANK', '1')
    connect_processes('pytorch', dict(backend='nccl', timeout=60))
    assert (called['device'], called['backend']) == (1, 'nccl')
    assert (called['rank'], called['world_size']) == (1, 4)
    assert called['timeout'].total_seconds() == 60
    assert not called['store'].check(['0']) and store.check(['0'])
