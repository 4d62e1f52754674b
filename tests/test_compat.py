from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from importlib import util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

from m2at_mm import compat

REFUSALS = (pickle.UnpicklingError, ValueError)


def save_and_load(content: Any, path: Path) -> Any:
    torch.save(content, path)
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    'values',
    [[], [1], [0.5, 2.0, 3.25], [1, 2, 3]],
    ids=['empty', 'one', 'floats', 'integers'],
)
def test_history_buffer_loads_with_weights_only(
    tmp_path: Path, values: list[float]
) -> None:
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
    hub.update_scalar('train/loss', 0.25)
    hub.update_scalar('train/loss', np.float32(0.5))
    hub.update_scalar('train/lr', torch.tensor(0.1))
    hub.update_info('epoch', 3)

    checkpoint = {'message_hub': hub.state_dict(), 'meta': {'epoch': 3}}
    loaded = save_and_load(checkpoint, tmp_path / 'x.pth')

    other = MessageHub.get_instance('test_compat_resumed')
    other.load_state_dict(loaded['message_hub'])
    assert other.get_scalar('train/loss').mean() == 0.375
    assert other.get_scalar('train/lr').current() == pytest.approx(0.1)
    assert other.get_info('epoch') == 3


class Calls:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize(
    'attack',
    [
        pytest.param(Calls(getattr, HistoryBuffer, name), id=name)
        for name in (
            '__init__',
            '__class__',
            'register_statistics',
            '__dict__',
        )
    ]
    + [
        pytest.param(Calls(getattr, owner, 'mean'), id=f'{owner}.mean')
        for owner in (torch.Tensor, np.ndarray)
    ]
    + [
        pytest.param(
            Calls(getattr, HistoryBuffer([1], [1]), 'mean'), id='instance'
        ),
        pytest.param(
            Calls(getattr, HistoryBuffer, 'mean', None), id='default'
        ),
        pytest.param(Calls(eval, '1 + 1'), id='eval'),
        pytest.param(Calls(setattr, HistoryBuffer, 'x', 1), id='setattr'),
    ],
)
def test_no_other_call_is_made_on_loading(
    tmp_path: Path, attack: Calls
) -> None:
    path = tmp_path / 'x.pth'
    torch.save({'message_hub': attack}, path)

    with pytest.raises((*REFUSALS, TypeError)):
        torch.load(path, weights_only=True)
    assert not hasattr(HistoryBuffer, 'x')


def test_no_command_is_run_on_loading(tmp_path: Path) -> None:
    trace, path = tmp_path / 'trace', tmp_path / 'x.pth'
    torch.save({'x': Calls(os.system, f'echo > "{trace}"')}, path)

    with pytest.raises(REFUSALS):
        torch.load(path, weights_only=True)
    assert not trace.exists()

    # The file is as dangerous as it is meant to be.
    torch.load(path, weights_only=False)
    assert trace.exists()


def pretend_versions(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str | None]
) -> None:
    """Show these versions as installed; None: not installed."""

    def pretended(name: str) -> str:
        found = versions.get(name, version(name))
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(compat, 'version', pretended)


def pretend_missing(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    monkeypatch.setattr(
        compat,
        'find_spec',
        lambda name: None if name in modules else util.find_spec(name),
    )


def test_this_environment_is_supported() -> None:
    compat.check_environment()


@pytest.mark.parametrize(
    'name, installed',
    [
        ('torch', '2.1'),
        ('torch', '2.1.0'),
        ('torch', '2.14.1+cpu'),
        ('torch', '2.1a0'),
        ('torch', '2.1.0a0+git1234567'),
        ('torch', '2.14.0.dev20260101'),
        ('torch', '3'),
        ('mmengine', '0.10.7rc1'),
        ('mmengine', '0.10'),
        ('mmengine', '0.11rc1'),
        ('mmpretrain', '1.2.0'),
        ('mmpretrain', '1.10.0'),
    ],
)
def test_supported_version(
    monkeypatch: pytest.MonkeyPatch, name: str, installed: str
) -> None:
    pretend_versions(monkeypatch, {name: installed})
    compat.check_environment()


@pytest.mark.parametrize(
    'name, installed, remedy',
    [
        ('torch', '2.0.1', "pip install 'torch>=2.1'"),
        ('torch', '1.13.1+cu117', "pip install 'torch>=2.1'"),
        ('torch', '2', "pip install 'torch>=2.1'"),
        ('torch', 'unknown', "pip install 'torch>=2.1'"),
        ('torch', None, "pip install 'torch>=2.1'"),
        ('mmengine', '0.9.1', "pip install 'mmengine>=0.10,<1'"),
        ('mmengine', '1.0.0', "pip install 'mmengine>=0.10,<1'"),
        ('mmengine', '1.0rc1', "pip install 'mmengine>=0.10,<1'"),
        ('mmengine', None, "pip install 'mmengine>=0.10,<1'"),
        ('mmpretrain', '1.1.1', "pip install 'mmpretrain>=1.2'"),
        ('mmpretrain', None, "pip install 'mmpretrain>=1.2'"),
    ],
)
def test_unsupported_version(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    installed: str | None,
    remedy: str,
) -> None:
    pretend_versions(monkeypatch, {name: installed})
    with pytest.raises(ImportError) as caught:
        compat.apply()

    problem = (
        'is not installed' if installed is None else f'{installed} is not'
    )
    message = str(caught.value)
    assert f'{name} {problem}' in message
    assert remedy in message
    assert message.count('pip install') == 1


@pytest.mark.parametrize(
    'module, remedy',
    [
        ('mmcv', 'pip install mmcv-lite'),
        ('pkg_resources', "pip install 'setuptools<81'"),
    ],
)
def test_missing_module(
    monkeypatch: pytest.MonkeyPatch, module: str, remedy: str
) -> None:
    pretend_missing(monkeypatch, module)
    with pytest.raises(ImportError, match=f'{module}.* is not installed') as c:
        compat.apply()

    assert remedy in str(c.value)
    assert str(c.value).count('pip install') == 1


def test_one_error_names_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_versions(monkeypatch, {'torch': '2.0.1', 'mmpretrain': None})
    pretend_missing(monkeypatch, 'mmcv', 'pkg_resources')
    with pytest.raises(ImportError) as caught:
        compat.apply()

    message = str(caught.value)
    for name in ('torch 2.0.1 is', 'mmpretrain is', 'mmcv is', 'imports, is'):
        assert f'{name} not ' in message
    assert message.count('pip install') == 4


def test_applying_again_changes_nothing() -> None:
    if not hasattr(torch.serialization, 'get_safe_globals'):
        pytest.skip('this PyTorch has no allow-list')
    before = torch.serialization.get_safe_globals()
    compat.apply()

    assert set(torch.serialization.get_safe_globals()) == set(before)
