"""CIFAR without data: downloads, and what is said where they fail."""

import hashlib
import socket
import tarfile
import urllib.error
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from data_files import TEST, make_folder, make_official
from pytest import MonkeyPatch

from m2at_mm.datasets import CIFAR10, CIFAR100, cifar

#: Socket timeouts of tried downloads.
Tries = list[float | None]


@pytest.fixture
def no_network(monkeypatch: MonkeyPatch) -> Tries:
    """Make the downloader fail; gives the socket timeout of every try."""
    tries: Tries = []

    def fail(url: str, root: str, **kwargs: object) -> None:
        tries.append(socket.getdefaulttimeout())
        Path(root, 'half-a-file').write_text('rest of a failed download')
        raise urllib.error.URLError('no route to host')

    monkeypatch.setattr(cifar.utils, 'download_and_extract_archive', fail)
    return tries


@pytest.mark.parametrize('cls', [CIFAR10, CIFAR100])
@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_no_data(
    tmp_path: Path,
    monkeypatch: MonkeyPatch,
    no_network: Tries,
    cls: type[CIFAR10],
    split: str,
) -> None:
    root = tmp_path / 'some' / 'where'
    if cls is CIFAR100:  # else it does not exist
        root.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(FileNotFoundError) as info:
        cls('some/where', split=split)
    for text in (
        f"{cls.__name__} data for split='{split}'",
        str(root / cls.base_folder),
        cls.url,
        f'{root / ("test" if split == "test" else "train")}.',
        f'{root}/{{train,test}}',
        'no route to host',
    ):
        assert text in str(info.value)
    assert isinstance(info.value.__cause__, urllib.error.URLError)
    assert sorted(tmp_path.rglob('*')) == before
    assert no_network == [cifar.DOWNLOAD_TIMEOUT]
    assert socket.getdefaulttimeout() is None
    with pytest.raises(FileNotFoundError) as info:
        cls('some/where', split=split, download=False)
    assert info.value.__cause__ is None
    assert 'download failed' not in str(info.value)
    assert len(no_network) == 1


@pytest.mark.usefixtures('no_network')
@pytest.mark.parametrize('damaged', [False, True])
def test_a_second_try(tmp_path: Path, monkeypatch: Any, damaged: bool) -> None:
    base = CIFAR10.base_folder
    make_official(tmp_path / 'source', monkeypatch)
    root = tmp_path / 'new' / 'root'
    if damaged:
        (root / base).mkdir(parents=True)
        (root / base / 'b').write_bytes(b'damaged')
        with pytest.raises(FileNotFoundError, match='are incomplete'):
            CIFAR10(str(root))
        assert (root / base / 'b').read_bytes() == b'damaged'
        assert [path.name for path in root.iterdir()] == [base]

    def deliver(url: str, to: str, filename: str, md5: str) -> None:
        Path(to, filename).write_bytes(b'archive')
        (tmp_path / 'source' / base).rename(Path(to, base))

    monkeypatch.setattr(cifar.utils, 'download_and_extract_archive', deliver)
    assert len(CIFAR10(str(root), split='val', val_size=10)) == 10
    assert [path.name for path in root.iterdir()] == [base]
    assert not list(root.parent.glob('.*'))


def test_what_is_there_is_not_downloaded(
    tmp_path: Path, monkeypatch: MonkeyPatch, no_network: Tries
) -> None:
    CIFAR10(str(make_folder(tmp_path / 'images')), split='test', indices=1)
    base = CIFAR10.base_folder
    make_official(tmp_path / 'source', monkeypatch)
    archive = tmp_path / CIFAR10.filename
    with tarfile.open(archive, 'w:gz') as tar:
        tar.add(tmp_path / 'source' / base, base)
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, 'tgz_md5', md5, raising=False)
    assert len(CIFAR10(str(tmp_path), split='test')) == 10 * TEST
    assert no_network == [] and archive.is_file()


def test_only_the_main_process_downloads_to_a_local_folder(
    tmp_path: Path, monkeypatch: MonkeyPatch, no_network: Tries
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CIFAR10, '_check_integrity', lambda self: False)
    dataset = CIFAR10('data', lazy_init=True)
    # Set here, since to be given it would need a client for the storage.
    dataset.data_prefix = dict(root='s3://bucket/cifar10')
    with pytest.raises(FileNotFoundError, match=r' s3://bucket.*only a local'):
        dataset.full_init()
    barrier = Mock()
    monkeypatch.setattr(cifar.dist, 'is_main_process', lambda: False)
    monkeypatch.setattr(cifar.dist, 'barrier', barrier)
    with pytest.raises(FileNotFoundError):
        CIFAR10(str(tmp_path))
    assert barrier.call_count == 1
    assert no_network == [] and not list(tmp_path.iterdir())
