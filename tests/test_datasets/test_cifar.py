from __future__ import annotations

import hashlib
import socket
import tarfile
import urllib.error
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import mmcv
import numpy as np
import pytest
from cifar_files import (
    NAMES,
    TEST,
    TRAIN,
    make_folder,
    make_official,
    pixels,
)
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmpretrain import datasets as stock_datasets
from PIL import Image

from m2at_mm.datasets import CIFAR10, CIFAR100, cifar

DOWNLOADER = 'download_and_extract_archive'


def origins(dataset: CIFAR10) -> list[tuple[str, int, int]]:
    """(part, class, index in the class) of every sample, from the pixels."""
    found = []
    for i in range(len(dataset)):
        sample = dataset[i]
        label, index, is_test = (int(v) for v in sample['img'][0, 0])
        part = 'test' if is_test else 'train'
        assert sample['img'].dtype == np.uint8
        assert (sample['img'] == pixels(part, label, index)).all()
        assert sample['gt_label'] == label
        found.append((part, label, index))
    return found


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """Make the downloader fail; gives the socket timeout of every try."""
    tries: list[float | None] = []

    def fail(url: str, root: str, **kwargs: object) -> None:
        tries.append(socket.getdefaulttimeout())
        Path(root, 'half-a-file').write_text('rest of a failed download')
        raise urllib.error.URLError('no route to host')

    monkeypatch.setattr(cifar, DOWNLOADER, fail)
    return tries


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / 'images')


# --- image folders ---------------------------------------------------------


@pytest.mark.parametrize('suffix', ['png', 'PNG', 'bmp'])
def test_folder_takes_turns_over_classes(tmp_path: Path, suffix: str) -> None:
    make_folder(tmp_path, suffix=suffix)

    dataset = CIFAR10(str(tmp_path), split='test', download=False)

    expected = [('test', c, i) for i in range(TEST) for c in range(10)]
    assert origins(dataset) == expected


def test_folder_val_is_held_out_of_train(folder: Path) -> None:
    kwargs: dict[str, Any] = dict(data_root=str(folder), val_size=20)
    train = origins(CIFAR10(split='train', **kwargs))
    val = origins(CIFAR10(split='val', **kwargs))

    everything = {('train', c, i) for c in range(10) for i in range(TRAIN)}
    assert len(val) == 20 and len(train) == 40
    assert set(train) | set(val) == everything
    assert not set(train) & set(val)
    assert Counter(c for _, c, _ in val) == dict.fromkeys(range(10), 2)
    assert [c for _, c, _ in train] == [*range(10)] * 4
    assert [c for _, c, _ in val] == [*range(10)] * 2


def test_val_is_the_same_every_time_and_not_the_first_ones(
    folder: Path,
) -> None:
    kwargs: dict[str, Any] = dict(
        data_root=str(folder), split='val', val_size=20
    )
    np.random.seed(1)
    first = origins(CIFAR10(**kwargs))
    np.random.seed(2)

    assert origins(CIFAR10(**kwargs)) == first
    assert {i for _, _, i in first} != {0, 1}


@pytest.mark.parametrize('split', ['train', 'val'])
def test_folder_split_is_that_of_the_official_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    kwargs: dict[str, Any] = dict(split=split, val_size=20)
    of_folder = origins(CIFAR10(str(folder), **kwargs))
    make_official(folder, monkeypatch)

    assert set(origins(CIFAR10(str(folder), **kwargs))) == set(of_folder)


@pytest.mark.parametrize('serialize', [True, False])
@pytest.mark.parametrize('indices', [1, 7, -4, 1000, [5, 2, 2], (9,)], ids=str)
def test_folder_reads_only_what_indices_ask_for(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    indices: int | list[int],
    serialize: bool,
) -> None:
    kwargs: dict[str, Any] = dict(
        data_root=str(folder), split='val', val_size=20
    )
    every = origins(CIFAR10(**kwargs))
    if isinstance(indices, int):
        expected = every[:indices] if indices >= 0 else every[indices:]
    else:
        expected = [every[i] for i in indices]
    decode = Mock(wraps=mmcv.imfrombytes)
    monkeypatch.setattr(mmcv, 'imfrombytes', decode)

    dataset = CIFAR10(indices=indices, serialize_data=serialize, **kwargs)

    assert decode.call_count == len(expected)
    assert origins(dataset) == expected


def test_folder_is_not_downloaded(
    folder: Path, no_network: list[float | None]
) -> None:
    CIFAR10(str(folder), split='test', download=True)

    assert no_network == []


def test_folder_ignores_other_files(folder: Path) -> None:
    (folder / 'train' / 'README.txt').write_text('notes')
    (folder / 'train' / '.cache').mkdir()
    (folder / 'train' / 'cat' / 'Thumbs.db').write_text('')
    (folder / 'train' / 'cat' / '._0000.png').write_text('')

    assert len(CIFAR10(str(folder), val_size=10)) == 10 * TRAIN - 10


def test_folder_says_what_it_reads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(
        cifar, 'print_log', lambda text, **_: lines.append(text)
    )

    CIFAR10(str(folder), split='test')

    assert lines == [f'reading 30 images from {folder / "test"}']


def test_folder_with_wrong_class_names(folder: Path) -> None:
    (folder / 'train' / 'bird').rename(folder / 'train' / 'birb')
    for file in (folder / 'train' / 'ship').iterdir():
        file.unlink()

    text = r"\['bird', 'ship'\], unexpected: \['birb'\]"
    with pytest.raises(ValueError, match=text):
        CIFAR10(str(folder))
    CIFAR10(str(folder), split='test')


@pytest.mark.parametrize('content', [b'', b'this is no image'])
def test_unreadable_image(folder: Path, content: bytes) -> None:
    path = folder / 'test' / 'dog' / '0001.png'
    path.write_bytes(content)

    with pytest.raises(ValueError, match=f'cannot read.*{path}.*replace'):
        CIFAR10(str(folder), split='test')


def test_image_of_another_size(folder: Path) -> None:
    path = folder / 'test' / 'dog' / '0001.png'
    Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(path)

    with pytest.raises(ValueError, match=f'{path} has 16x8 .*resize'):
        CIFAR10(str(folder), split='test')


def test_retry_after_a_mended_image(folder: Path) -> None:
    path = folder / 'test' / 'airplane' / '0000.png'
    path.write_bytes(b'')
    dataset = CIFAR10(str(folder), split='test', indices=[0], lazy_init=True)
    with pytest.raises(ValueError):
        dataset.full_init()
    Image.fromarray(pixels('test', 0, 0)).save(path)

    assert origins(dataset) == [('test', 0, 0)]


# --- official files --------------------------------------------------------


@pytest.mark.parametrize('cls', [CIFAR10, CIFAR100])
def test_official_val_comes_from_the_training_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cls: type[CIFAR10]
) -> None:
    everything = make_official(tmp_path, monkeypatch, cls)
    classes = len(cls.METAINFO['classes'])
    kwargs: dict[str, Any] = dict(data_root=str(tmp_path), download=False)
    kwargs['val_size'] = 2 * classes

    train = origins(cls(split='train', **kwargs))
    val = origins(cls(split='val', **kwargs))

    assert [c for _, c, _ in val] == [*range(classes)] * 2
    assert set(train) | set(val) == set(everything)
    # train keeps the order of the files.
    assert train == [item for item in everything if item not in val]
    assert len(train) + len(val) == len(everything)


def test_official_test_is_the_stock_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_official(tmp_path, monkeypatch)
    for name in ('train_list', 'test_list'):
        monkeypatch.setattr(
            stock_datasets.CIFAR10, name, getattr(CIFAR10, name)
        )

    ours = CIFAR10(str(tmp_path), split='test', indices=7)

    stock = stock_datasets.CIFAR10(str(tmp_path), split='test', indices=7)
    assert origins(ours) == origins(stock)
    assert {part for part, _, _ in origins(ours)} == {'test'}


def test_official_files_come_first_if_intact(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_official(folder, monkeypatch)
    kwargs: dict[str, Any] = dict(data_root=str(folder), split='test')
    expected = [('test', c, i) for i in range(TEST) for c in range(10)]
    assert origins(CIFAR10(**kwargs)) == expected[::-1]

    Path(folder, CIFAR10.base_folder, 'b').write_bytes(b'damaged')

    assert origins(CIFAR10(**kwargs)) == expected


# --- no data, and downloads ------------------------------------------------


@pytest.mark.parametrize('cls', [CIFAR10, CIFAR100])
@pytest.mark.parametrize('split', ['train', 'val', 'test'])
@pytest.mark.parametrize('exists', [True, False])
def test_no_data(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_network: list[float | None],
    cls: type[CIFAR10],
    split: str,
    exists: bool,
) -> None:
    root = tmp_path / 'some' / 'where'
    if exists:
        root.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob('*'))

    with pytest.raises(FileNotFoundError) as info:
        cls('some/where', split=split)

    text = str(info.value)
    assert f"{cls.__name__} data for split='{split}'" in text
    assert str(root / cls.base_folder) in text and cls.url in text
    assert f'{root / ("test" if split == "test" else "train")}.' in text
    assert f'{root}/{{train,test}}' in text
    assert 'no route to host' in text
    assert isinstance(info.value.__cause__, urllib.error.URLError)
    assert sorted(tmp_path.rglob('*')) == before
    assert no_network == [cifar.DOWNLOAD_TIMEOUT]
    assert socket.getdefaulttimeout() is None


def test_no_data_and_no_download(
    tmp_path: Path, no_network: list[float | None]
) -> None:
    with pytest.raises(FileNotFoundError) as info:
        CIFAR10(str(tmp_path), download=False)

    assert info.value.__cause__ is None
    assert 'download failed' not in str(info.value)
    assert no_network == []


def test_failed_download_leaves_damaged_files_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_network: list[float | None],
) -> None:
    make_official(tmp_path, monkeypatch)
    damaged = tmp_path / CIFAR10.base_folder / 'b'
    damaged.write_bytes(b'damaged')

    with pytest.raises(FileNotFoundError, match='are incomplete'):
        CIFAR10(str(tmp_path))

    assert damaged.read_bytes() == b'damaged'
    assert [path.name for path in tmp_path.iterdir()] == [CIFAR10.base_folder]


@pytest.mark.parametrize('damaged', [False, True])
def test_download_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    source = tmp_path / 'source'
    make_official(source, monkeypatch)
    root = tmp_path / 'new' / 'root'
    if damaged:
        (root / CIFAR10.base_folder).mkdir(parents=True)
        (root / CIFAR10.base_folder / 'a').write_bytes(b'damaged')

    def deliver(url: str, to: str, filename: str, md5: str) -> None:
        Path(to, filename).write_bytes(b'archive')
        (source / CIFAR10.base_folder).rename(Path(to, CIFAR10.base_folder))

    monkeypatch.setattr(cifar, DOWNLOADER, deliver)

    dataset = CIFAR10(str(root), split='val', val_size=10)

    assert len(dataset) == 10
    assert [path.name for path in root.iterdir()] == [CIFAR10.base_folder]
    assert not list(root.parent.glob('.*'))


def test_archive_that_is_there_is_unpacked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_network: list[float | None],
) -> None:
    make_official(tmp_path / 'source', monkeypatch)
    root = tmp_path / 'root'
    root.mkdir()
    archive = root / CIFAR10.filename
    with tarfile.open(archive, 'w:gz') as tar:
        folder = tmp_path / 'source' / CIFAR10.base_folder
        tar.add(folder, CIFAR10.base_folder)
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, 'tgz_md5', md5, raising=False)

    assert len(CIFAR10(str(root), split='test')) == 10 * TEST
    assert no_network == []
    assert archive.is_file()


def test_only_the_main_process_downloads(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_network: list[float | None],
) -> None:
    barriers: list[int] = []
    monkeypatch.setattr(cifar.dist, 'is_main_process', lambda: False)
    monkeypatch.setattr(cifar.dist, 'barrier', lambda: barriers.append(1))

    with pytest.raises(FileNotFoundError):
        CIFAR10(str(tmp_path))

    assert no_network == []
    assert barriers == [1]


def test_remote_root_is_not_made_a_local_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_network: list[float | None],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CIFAR10, '_check_integrity', lambda self: False)
    dataset = CIFAR10('data', lazy_init=True)
    # Set here, since to be given it would need a client for the storage.
    dataset.data_prefix = dict(root='s3://bucket/cifar10')

    with pytest.raises(FileNotFoundError, match=r' s3://bucket.*only a local'):
        dataset.full_init()

    assert no_network == []
    assert not list(tmp_path.iterdir())


# --- arguments -------------------------------------------------------------


@pytest.mark.parametrize('cls', [CIFAR10, CIFAR100])
def test_bad_split(cls: type[CIFAR10]) -> None:
    with pytest.raises(ValueError, match=r"'train', 'val', 'test'.*'dev'"):
        cls('data', split='dev')


@pytest.mark.parametrize('val_size', [0, -10, 15, 10.0, '100'])
def test_val_size_that_cannot_be_stratified(val_size: Any) -> None:
    with pytest.raises(ValueError, match=r'val_size.*of 10.*got.*try 100'):
        CIFAR10('data', val_size=val_size, lazy_init=True)


def test_val_size_of_cifar100_counts_its_classes() -> None:
    with pytest.raises(ValueError, match=r'val_size.*of 100.*got 50'):
        CIFAR100('data', val_size=50, lazy_init=True)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_val_size_that_leaves_nothing_to_train_on(
    folder: Path, split: str
) -> None:
    (folder / 'train' / 'frog' / '0000.png').unlink()

    text = r"val_size=50 takes 5 .* 5 of class 'frog'.*lower val_size"
    with pytest.raises(ValueError, match=text):
        CIFAR10(str(folder), split=split, val_size=50)
    assert len(CIFAR10(str(folder), split=split, val_size=40)) in (19, 40)


def test_empty_data_root_is_the_parents_error() -> None:
    with pytest.raises(RuntimeError, match='data_root'):
        CIFAR10()


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_builds_from_config_as_asked(folder: Path, split: str) -> None:
    dataset = ROOT_DATASETS.build(
        dict(
            type='m2at_mm.CIFAR10',
            data_root=str(folder.parent),
            data_prefix='images',
            split=split,
            val_size=10,
            test_mode=split != 'train',
            lazy_init=True,
            metainfo=dict(classes=[name.upper() for name in NAMES]),
            pipeline=[dict(type='PackInputs')],
        )
    )

    assert type(dataset) is CIFAR10
    assert dataset.split == split
    assert not dataset._fully_initialized
    dataset.full_init()
    assert dataset.split == split
    assert dataset.CLASSES[3] == 'CAT'
    sample = dataset[3]
    assert sample['inputs'].shape == (3, 32, 32)
    assert sample['data_samples'].gt_label.item() == 3


def test_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HOME', str(folder.parent))

    assert len(CIFAR10('~/images', split='test')) == 10 * TEST


def test_cifar100_folder(tmp_path: Path) -> None:
    make_folder(tmp_path, names=CIFAR100.METAINFO['classes'])

    val = CIFAR100(str(tmp_path), split='val', val_size=200)

    assert [c for _, c, _ in origins(val)] == [*range(100)] * 2
    assert val.CLASSES[8] == 'bicycle'


# --- the real images -------------------------------------------------------


def test_real_images(cifar10_root: Path) -> None:
    test = CIFAR10(str(cifar10_root), split='test', indices=200)
    val = CIFAR10(str(cifar10_root), split='val', val_size=100)

    assert len(test) == 200 and len(val) == 100
    assert (np.bincount(val.get_gt_labels()) == 10).all()
    for i in (0, 123, 199):
        sample = test[i]
        folder = cifar10_root / 'test' / NAMES[i % 10]
        with Image.open(sorted(folder.iterdir())[i // 10]) as image:
            expected = np.asarray(image.convert('RGB')).astype(int)
        # JPEG decoders differ a little.
        assert np.abs(sample['img'] - expected).max() <= 3
        assert sample['gt_label'] == i % 10
