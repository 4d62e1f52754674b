from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest
import torch

from m2at_mm import compat


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Function that shows versions, None where one is not installed."""

    def show(versions: dict[str, str | None], *missing: str) -> None:
        def pretended(name: str) -> str:
            found = versions.get(name, version(name))
            if found is None:
                raise PackageNotFoundError(name)
            return found

        def find(name: str) -> str | None:
            return None if name in missing else name

        def imported(name: str) -> None:
            if name in missing:
                raise ModuleNotFoundError(name)

        monkeypatch.setattr(compat, 'version', pretended)
        monkeypatch.setattr(compat, 'find_spec', find)
        monkeypatch.setattr(compat, 'import_module', imported)

    return show


VERSIONS = [
    ('torch', '2.3 2.4.0 2.14.1+cpu 2.4a0 2.4.0a0+git1234567', None),
    ('torch', '2.14.0.dev20260101 3', None),
    ('mmengine', '0.10.6 0.10.7rc1 0.10.10 0.11rc1', None),
    ('mmpretrain', '1.2.0 1.10.0', None),
    ('torch', '2.0.1 1.13.1+cu117 2 unknown', 'torch>=2.1'),
    ('mmengine', '0.9.1 0.10 0.10.5 1.0.0 1.0rc1', 'mmengine>=0.10.6,<1'),
    ('mmpretrain', '1.1.1', 'mmpretrain>=1.2'),
]


@pytest.mark.parametrize(('name', 'versions', 'remedy'), VERSIONS)
def test_versions(pretend: Any, name: str, versions: str, remedy: Any) -> None:
    compat.apply()  # this one
    for installed in (*versions.split(), *[None] * (remedy is not None)):
        pretend({'numpy': '1.26.4', name: installed})
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
    missing = {'torch': '2.0.1', 'numpy': '1.26.4', 'mmpretrain': None}
    pretend(missing, 'mmcv', 'pkg_resources')
    with pytest.raises(ImportError, match='cannot run here') as caught:
        compat.apply()
    message = str(caught.value)
    for name in ('torch 2.0.1 is', 'mmpretrain is', 'mmcv is', 'imports, is'):
        assert f'{name} not ' in message
    for remedy in ('mmcv-lite', "'setuptools>=66.1,<81'"):
        assert f'pip install {remedy}' in message
    assert message.count('pip install') == 4


@pytest.mark.parametrize(
    ('torch_version', 'numpy_version', 'fits'),
    [
        ('2.1.2+cu121', '1.26.4', True),
        ('2.1.2+cu121', '2.0.0', False),
        ('2.2.2', '2.1.0', False),
        ('2.3.0', '2.0.0', True),
        ('2.10.0', '2.4.6', True),
    ],
)
def test_numpy_fits_torch(
    pretend: Any, torch_version: str, numpy_version: str, fits: bool
) -> None:
    pretend({'torch': torch_version, 'numpy': numpy_version})
    if fits:
        compat.apply()
        return
    with pytest.raises(ImportError, match=r"pip install 'numpy<2'`") as caught:
        compat.apply()
    assert f'numpy {numpy_version} is installed' in str(caught.value)


def test_a_broken_pkg_resources_is_found(monkeypatch: Any) -> None:
    def broken(name: str) -> None:
        # setuptools 60 on Python 3.12
        raise AttributeError("module 'pkgutil' has no attribute 'ImpImporter'")

    monkeypatch.setattr(compat, 'import_module', broken)
    with pytest.raises(ImportError, match='not fit for this version') as one:
        compat.apply()
    assert "pip install 'setuptools>=66.1,<81'" in str(one.value)


def test_applying_again_changes_nothing() -> None:
    if not hasattr(torch.serialization, 'get_safe_globals'):
        pytest.skip('this PyTorch has no allow-list')
    before = torch.serialization.get_safe_globals()
    compat.apply()
    assert set(torch.serialization.get_safe_globals()) == set(before)
