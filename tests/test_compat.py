import os
import pickle
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

from m2at_mm import compat


def save_and_load(content: Any, path: Path) -> Any:
    torch.save(content, path)
    return torch.load(path, weights_only=True)


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


def test_message_hub_loads_with_weights_only(tmp_path: Path) -> None:
    hub = MessageHub.get_instance('test_compat')
    for value in (0.25, np.float32(0.5)):
        hub.update_scalar('train/loss', value)
    hub.update_scalar('train/lr', torch.tensor(0.1))
    hub.update_info('epoch', 3)
    loaded = save_and_load(dict(hub=hub.state_dict()), tmp_path / 'x.pth')
    other = MessageHub.get_instance('test_compat_resumed')
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


def test_no_command_is_run_on_loading(tmp_path: Path) -> None:
    trace, path = tmp_path / 'trace', tmp_path / 'x.pth'
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        save_and_load({'x': Calls(os.system, f'echo > "{trace}"')}, path)
    assert not trace.exists()
    # The file is as dangerous as it is meant to be.
    torch.load(path, weights_only=False)
    assert trace.exists()


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Function that shows versions, None where one is not installed."""

    def show(versions: dict[str, str | None], *missing: str) -> None:
        def pretended(name: str) -> str:
            found = versions.get(name, version(name))
            if found is None:
                raise PackageNotFoundError(name)
            return found

        known = {name: None for name in missing}
        find = lambda name: known.get(name, name)  # noqa: E731
        monkeypatch.setattr(compat, 'version', pretended)
        monkeypatch.setattr(compat, 'find_spec', find)

    return show


VERSIONS = [
    ('torch', '2.1 2.1.0 2.14.1+cpu 2.1a0 2.1.0a0+git1234567', None),
    ('torch', '2.14.0.dev20260101 3', None),
    ('mmengine', '0.10.7rc1 0.10 0.11rc1', None),
    ('mmpretrain', '1.2.0 1.10.0', None),
    ('torch', '2.0.1 1.13.1+cu117 2 unknown', 'torch>=2.1'),
    ('mmengine', '0.9.1 1.0.0 1.0rc1', 'mmengine>=0.10,<1'),
    ('mmpretrain', '1.1.1', 'mmpretrain>=1.2'),
]


@pytest.mark.parametrize(('name', 'versions', 'remedy'), VERSIONS)
def test_versions(pretend: Any, name: str, versions: str, remedy: Any) -> None:
    compat.apply()  # this one
    for installed in (*versions.split(), *[None] * (remedy is not None)):
        pretend({name: installed})
        if remedy is None:
            compat.apply()
            continue
        with pytest.raises(ImportError) as caught:
            compat.apply()
        text = str(caught.value)
        assert f'{name} {installed or "is not installed"}' in text
        assert text.count('pip install') == 1
        assert f"pip install '{remedy}'" in text


def test_one_error_names_everything(pretend: Callable[..., None]) -> None:
    missing = {'torch': '2.0.1', 'mmpretrain': None}
    pretend(missing, 'mmcv', 'pkg_resources')
    with pytest.raises(ImportError, match='cannot run here') as caught:
        compat.apply()
    message = str(caught.value)
    for name in ('torch 2.0.1 is', 'mmpretrain is', 'mmcv is', 'imports, is'):
        assert f'{name} not ' in message
    for remedy in ('mmcv-lite', "'setuptools<81'"):
        assert f'pip install {remedy}' in message
    assert message.count('pip install') == 4


def test_applying_again_changes_nothing() -> None:
    if not hasattr(torch.serialization, 'get_safe_globals'):
        pytest.skip('this PyTorch has no allow-list')
    before = torch.serialization.get_safe_globals()
    compat.apply()
    assert set(torch.serialization.get_safe_globals()) == set(before)
