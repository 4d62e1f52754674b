import sys
import warnings
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from mmengine.config import Config
from pytest import MonkeyPatch
from tools_support import free_port
from torch import distributed

from m2at_mm.runner import process_group as group

RESTARTS = 'TORCHELASTIC_RESTART_COUNT'


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: MonkeyPatch) -> None:
    """No GPU, and not started by torchrun."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', RESTARTS):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
def test_launchers_that_lack_something(launcher: str) -> None:
    with pytest.raises(RuntimeError, match=f"launcher='{launcher}'.*torchrun"):
        group.connect_processes(launcher)
    assert not distributed.is_initialized()


def test_what_mmengine_does_itself(monkeypatch: MonkeyPatch) -> None:
    group.connect_processes('none')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    group.connect_processes('pytorch')
    assert not distributed.is_initialized()


@pytest.mark.skipif(sys.platform == 'win32', reason='gloo by environment')
def test_without_a_gpu_the_backend_is_gloo(monkeypatch: MonkeyPatch) -> None:
    address = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()))
    for name, value in dict(address, RANK='0', WORLD_SIZE='1').items():
        monkeypatch.setenv(name, value)
    try:
        group.connect_processes('pytorch')
        assert distributed.get_backend() == 'gloo'
        group.connect_processes('pytorch')  # It is there already.
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            distributed.destroy_process_group()


def test_a_restart_sees_nothing_left_before(monkeypatch: MonkeyPatch) -> None:
    """On a GPU, too; what it would call there is recorded."""
    store = distributed.HashStore()
    store.set('0', 'address of a dead process')
    cuda = Mock(**{'is_available.return_value': True})
    meet, start = Mock(return_value=iter([(store, 1, 4)])), Mock()
    monkeypatch.setattr(torch, 'cuda', cuda)
    monkeypatch.setattr(distributed, 'rendezvous', meet)
    monkeypatch.setattr(distributed, 'init_process_group', start)
    for name, value in ((RESTARTS, '2'), ('RANK', '1'), ('LOCAL_RANK', '1')):
        monkeypatch.setenv(name, value)
    nccl = dict(backend='nccl', timeout=60)
    group.connect_processes('pytorch', nccl)
    cuda.set_device.assert_called_once_with(1)
    assert start.call_args.args == ('nccl',)
    given = start.call_args.kwargs
    assert (given['rank'], given['world_size']) == (1, 4)
    assert given['timeout'].total_seconds() == 60
    given['store'].set('0', 'address of this one')
    assert store.get('0') == b'address of a dead process'


@pytest.mark.parametrize('restarts', [None, '0', '2'])
@pytest.mark.parametrize('saved', [False, True])
def test_resumes_after_a_restart(
    restarts: str | None, saved: bool, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    if restarts is not None:
        monkeypatch.setenv(RESTARTS, restarts)
    if saved:
        (tmp_path / 'last_checkpoint').write_text('epoch_1.pth')
    given = dict(work_dir=str(tmp_path), resume=False, load_from='stock.pth')
    cfg = Config(given)
    group.resume_after_restart(cfg)
    if restarts == '2' and saved:
        given.update(resume=True, load_from=None)
    assert cfg.to_dict() == given
