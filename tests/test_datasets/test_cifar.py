from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import mmcv
import numpy as np
import pytest
from data_files import TEST, TRAIN, make_folder, make_official, pixels
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmpretrain.datasets import CIFAR10 as STOCK_CIFAR10
from PIL import Image
from pytest import MonkeyPatch

from m2at_mm.datasets import CIFAR10, CIFAR100, cifar

TEST_IMAGES = [('test', c, i) for i in range(TEST) for c in range(10)]


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
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / 'images')


# --- image folders ---------------------------------------------------------


@pytest.mark.parametrize('suffix', ['png', 'PNG', 'bmp'])
def test_class_by_class(tmp_path: Path, monkeypatch: Any, suffix: str) -> None:
    make_folder(tmp_path, suffix=suffix)
    log = Mock()
    monkeypatch.setattr(cifar, 'print_log', log)
    assert origins(CIFAR10(str(tmp_path), split='test')) == TEST_IMAGES
    text = f'reading 30 images from {tmp_path / "test"}'
    log.assert_called_once_with(text, logger='current')


@pytest.mark.parametrize('official', [False, True])
@pytest.mark.parametrize('cls', [CIFAR10, CIFAR100])
def test_val_is_held_out_of_train(
    cls: Any, official: bool, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    names = cls.METAINFO['classes']
    classes = range(len(names))
    files = [('train', c, i) for c in classes for i in range(TRAIN)]
    if official:
        files = make_official(tmp_path, monkeypatch, cls)
    else:
        make_folder(tmp_path, names)
    load = partial(cls, str(tmp_path), download=False, val_size=2 * len(names))
    np.random.seed(1)
    train, val = (origins(load(split=split)) for split in ('train', 'val'))
    assert len(train) + len(val) == len(files)
    assert {*train, *val} == {*files}
    assert [c for _, c, _ in val] == [*classes] * 2
    if official:  # train keeps the order of the files
        assert train == [item for item in files if item not in val]
    else:
        assert [c for _, c, _ in train] == [*classes] * 4
    # The same every time, and not the first ones.
    np.random.seed(2)
    assert origins(load(split='val')) == val
    assert {i for _, _, i in val} != {0, 1}


@pytest.mark.parametrize('serialize', [True, False])
@pytest.mark.parametrize('indices', [1, 7, -4, 1000, [5, 2, 2], (9,)], ids=str)
def test_folder_reads_only_what_indices_ask_for(
    folder: Path, monkeypatch: MonkeyPatch, indices: Any, serialize: bool
) -> None:
    load = partial(CIFAR10, str(folder), split='val', val_size=20)
    expected = origins(load())
    if isinstance(indices, int):
        expected = expected[:indices] if indices >= 0 else expected[indices:]
    else:
        expected = [expected[i] for i in indices]
    decode = Mock(wraps=mmcv.imfrombytes)
    monkeypatch.setattr(mmcv, 'imfrombytes', decode)
    dataset = load(indices=indices, serialize_data=serialize)
    assert decode.call_count == len(expected)
    assert origins(dataset) == expected


def test_other_files_and_folders(folder: Path) -> None:
    (folder / 'train' / '.cache').mkdir()
    for name in ('README.txt', 'cat/Thumbs.db', 'cat/._0000.png'):
        (folder / 'train' / name).write_text('notes')
    assert len(CIFAR10(str(folder), val_size=10)) == 10 * TRAIN - 10
    # But no class may be missing, or be unknown.
    (folder / 'train' / 'bird').rename(folder / 'train' / 'birb')
    for file in (folder / 'train' / 'ship').iterdir():
        file.unlink()
    text = r"\['bird', 'ship'\], unexpected: \['birb'\]"
    with pytest.raises(ValueError, match=text):
        CIFAR10(str(folder))
    CIFAR10(str(folder), split='test')


@pytest.mark.parametrize('content', [b'', b'this is no image', None])
def test_a_wrong_image(folder: Path, content: bytes | None) -> None:
    path = folder / 'test' / 'airplane' / '0000.png'
    if content is None:
        Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(path)
        text = f'{path} has 16x8 .*resize'
    else:
        path.write_bytes(content)
        text = f'cannot read.*{path}.*replace'
    dataset = CIFAR10(str(folder), split='test', indices=[0], lazy_init=True)
    with pytest.raises(ValueError, match=text):
        dataset.full_init()
    # It is read once it is mended.
    Image.fromarray(pixels('test', 0, 0)).save(path)
    assert origins(dataset) == [('test', 0, 0)]


# --- official files --------------------------------------------------------


def test_official_files_come_first(folder: Path, monkeypatch: Any) -> None:
    def load(split: str, cls: Any = CIFAR10, **settings: Any) -> list:
        return origins(cls(str(folder), split, **settings))

    of_folder = {k: load(k, val_size=20) for k in ('train', 'val')}
    make_official(folder, monkeypatch)
    # They are split as those of the folder, and read as mmpretrain reads them.
    for split, expected in of_folder.items():
        assert set(load(split, val_size=20)) == set(expected)
    assert load('test') == TEST_IMAGES[::-1]
    for name in ('train_list', 'test_list'):
        monkeypatch.setattr(STOCK_CIFAR10, name, getattr(CIFAR10, name))
    stock = load('test', STOCK_CIFAR10, indices=7)
    assert load('test', indices=7) == stock
    Path(folder, CIFAR10.base_folder, 'b').write_bytes(b'damaged')
    assert load('test') == TEST_IMAGES


# --- arguments -------------------------------------------------------------


@pytest.mark.parametrize('split', ['train', 'val'])
def test_val_size_leaves_nothing_to_train(folder: Path, split: str) -> None:
    with pytest.raises(RuntimeError, match='data_root'):
        CIFAR10('', split, lazy_init=True)
    (folder / 'train' / 'frog' / '0000.png').unlink()
    text = r"val_size=50 takes 5 .* 5 of class 'frog'.*lower val_size"
    with pytest.raises(ValueError, match=text):
        CIFAR10(str(folder), split=split, val_size=50)
    assert len(CIFAR10(str(folder), split=split, val_size=40)) in (19, 40)


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_built_as_asked(folder: Path, monkeypatch: Any, split: str) -> None:
    monkeypatch.setenv('HOME', str(folder.parent))
    cfg = dict(type='m2at_mm.CIFAR10', data_root='~', data_prefix='images')
    cfg.update(split=split, val_size=10, test_mode=split != 'train')
    cfg.update(pipeline=[dict(type='PackInputs')], lazy_init=True)
    names = [name.upper() for name in CIFAR10.METAINFO['classes']]
    dataset = ROOT_DATASETS.build(dict(cfg, metainfo=dict(classes=names)))
    assert type(dataset) is CIFAR10 and not dataset._fully_initialized
    dataset.full_init()
    assert dataset.split == split and dataset.CLASSES[3] == 'CAT'
    assert len(dataset) == dict(train=50, val=10, test=30)[split]
    sample = dataset[3]
    assert sample['inputs'].shape == (3, 32, 32)
    assert sample['data_samples'].gt_label.item() == 3


# --- the real images -------------------------------------------------------


def test_real_images(cifar10_root: Path) -> None:
    test = CIFAR10(str(cifar10_root), split='test', indices=200)
    val = CIFAR10(str(cifar10_root), split='val', val_size=100)

    assert len(test) == 200 and len(val) == 100
    assert (np.bincount(val.get_gt_labels()) == 10).all()
    for i in (0, 123, 199):
        sample = test[i]
        folder = cifar10_root / 'test' / CIFAR10.METAINFO['classes'][i % 10]
        with Image.open(sorted(folder.iterdir())[i // 10]) as image:
            expected = np.asarray(image.convert('RGB')).astype(int)
        # JPEG decoders differ a little.
        assert np.abs(sample['img'] - expected).max() <= 3
        assert sample['gt_label'] == i % 10
