import io
import os
import pickle
import tarfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader, load_checkpoint
from torch import nn

import m2at_mm.registry  # noqa: F401
from m2at_mm import checkpoint_files


@pytest.fixture(autouse=True, params=['of PyTorch', 'of this package'])
def reader(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The restricted reader of PyTorch 2.6, and the one for older versions."""
    if request.param == 'of this package':
        monkeypatch.setattr(checkpoint_files, 'RESTRICTS_ITSELF', False)
    elif not checkpoint_files.RESTRICTS_ITSELF:
        pytest.skip('this PyTorch has no such reader')


def save_and_load(content: Any, path: Path) -> Any:
    torch.save(content, path)
    return checkpoint_files.read(path)


@pytest.mark.parametrize('values', [[], [1], [0.5, 2.0, 3.25], [1, 2, 3]])
def test_history_buffer_loads(tmp_path: Path, values: list[float]) -> None:
    buffer = HistoryBuffer(values, [1] * len(values), max_length=7)
    for value in (np.float64(4.0).item(), 5):
        buffer.update(value)
    loaded = save_and_load({'loss': buffer}, tmp_path / 'x.pth')['loss']
    assert type(loaded) is HistoryBuffer
    assert loaded.max_length == 7
    for ours, theirs in zip(loaded.data, buffer.data):
        assert ours.dtype == theirs.dtype and (ours == theirs).all()
    for name in ('mean', 'min', 'max', 'current'):
        assert loaded.statistics(name) == buffer.statistics(name)


def test_message_hub_loads(tmp_path: Path) -> None:
    hub = MessageHub.get_instance('test_checkpoint_files')
    for value in (0.25, np.float32(0.5)):
        hub.update_scalar('train/loss', value)
    hub.update_scalar('train/lr', torch.tensor(0.1))
    hub.update_info('epoch', 3)
    loaded = save_and_load(dict(hub=hub.state_dict()), tmp_path / 'x.pth')
    other = MessageHub.get_instance('test_checkpoint_files_resumed')
    other.load_state_dict(loaded['hub'])
    assert other.get_scalar('train/loss').mean() == 0.375
    assert other.get_scalar('train/lr').current() == pytest.approx(0.1)
    assert other.get_info('epoch') == 3


class Calls:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


NAMES = ('__init__', '__class__', 'register_statistics', '__dict__')

REFUSED = {
    **{name: Calls(getattr, HistoryBuffer, name) for name in NAMES},
    'of tensor': Calls(getattr, torch.Tensor, 'mean'),
    'of array': Calls(getattr, np.ndarray, 'mean'),
    'of instance': Calls(getattr, HistoryBuffer([1], [1]), 'mean'),
    'default': Calls(getattr, HistoryBuffer, 'mean', None),
    'eval': Calls(eval, '1 + 1'),
    'setattr': Calls(setattr, HistoryBuffer, 'x', 1),
}


@pytest.mark.parametrize('name', REFUSED)
def test_no_other_call_is_made_on_loading(tmp_path: Path, name: str) -> None:
    with pytest.raises((pickle.UnpicklingError, ValueError, TypeError)):
        save_and_load({'message_hub': REFUSED[name]}, tmp_path / 'x.pth')
    assert not hasattr(HistoryBuffer, 'x')


# The state (None, {'x': 1}) for a function, whose attribute it would set:
# PROTO, GLOBAL, NONE, EMPTY_DICT, BINUNICODE, BININT1, SETITEM, TUPLE2, BUILD.
STATE = (
    b'\x80\x02ctorch._utils\n_rebuild_tensor\nN}X\x01\x00\x00\x00xK\x01s\x86b.'
)


def test_nothing_is_set_on_loading(tmp_path: Path) -> None:
    path, changed = tmp_path / 'x.pth', tmp_path / 'changed.pth'
    torch.save({}, path)
    with ZipFile(path) as old, ZipFile(changed, 'w') as new:
        for part in old.namelist():
            pickled = part.endswith('/data.pkl')
            new.writestr(part, STATE if pickled else old.read(part))
    with pytest.raises(pickle.UnpicklingError):
        checkpoint_files.read(changed)
    function: Any = torch._utils._rebuild_tensor
    assert not hasattr(function, 'x')
    # The file is as harmful as it is meant to be.
    torch.load(changed, weights_only=False)
    assert function.x == 1
    del function.x


@pytest.mark.parametrize('source', ['file', 'folder of MMEngine', 'URL'])
@pytest.mark.parametrize('legacy', [False, True])
def test_no_command_is_run_on_loading(
    tmp_path: Path, monkeypatch: Any, source: str, legacy: bool
) -> None:
    # Where PyTorch keeps what it has downloaded.
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    path = tmp_path / 'hub' / 'checkpoints' / 'x.pth'
    trace = tmp_path / 'trace'
    path.parent.mkdir(parents=True)
    content = {'x': Calls(os.system, f'echo > "{trace}"')}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    stock = torch.load
    with pytest.raises(pickle.UnpicklingError):
        if source == 'file':
            checkpoint_files.read(path)
        elif source == 'URL':
            CheckpointLoader.load_checkpoint('http://localhost/x.pth')
        else:
            load_checkpoint(nn.Linear(1, 1), str(path))
    assert not trace.exists()
    assert torch.load is stock
    # The file is as dangerous as it is meant to be.
    torch.load(path, weights_only=False)
    assert trace.exists()


def test_programs_and_tar_archives_are_refused(tmp_path: Path) -> None:
    program, archive = tmp_path / 'x.pt', tmp_path / 'x.tar'
    torch.jit.script(nn.Linear(1, 1)).save(program)
    with tarfile.open(archive, 'w') as opened:
        opened.addfile(tarfile.TarInfo('storages'), io.BytesIO())
    for path in (program, archive):
        with pytest.raises((pickle.UnpicklingError, RuntimeError)):
            checkpoint_files.read(path)


def test_what_own_checkpoints_hold_is_read(tmp_path: Path) -> None:
    held = dict(
        scalars=[True, 1, -(2**70), 0.5, 1j, 'text', b'bytes', None],
        groups=(OrderedDict(a=1), {2, 3}, [], {}),
        types=[torch.float32, torch.uint8, torch.bool, torch.device('cpu')],
    )
    assert save_and_load(held, tmp_path / 'x.pth') == held
    weights = dict(nn.BatchNorm1d(2).state_dict(), mask=torch.ones(2) > 0)
    weights['parameter'] = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    for legacy in (False, True):
        path = tmp_path / f'{legacy}.pth'
        torch.save(weights, path, _use_new_zipfile_serialization=not legacy)
        loaded = checkpoint_files.read(path)
        assert loaded.keys() == weights.keys()
        for name, value in weights.items():
            assert loaded[name].dtype == value.dtype
            assert torch.equal(loaded[name], value)
        on_meta = checkpoint_files.read(path, 'meta')
        assert all(value.is_meta for value in on_meta.values())
