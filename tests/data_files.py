"""Small data sets of CIFAR's form, and files of generated images."""

import hashlib
import pickle
from collections import Counter
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from m2at_mm.datasets import CIFAR10

NAMES = CIFAR10.METAINFO['classes']
TRAIN, TEST = 6, 3  # images per class in the small folders made here


def pixels(part: str, label: int, index: int) -> np.ndarray:
    """An image that tells where it is from by its top left pixel."""
    seed = [label, index, part == 'test']
    img = np.random.RandomState(seed).randint(0, 256, (32, 32, 3), np.uint8)
    img[0, 0] = label, index, part == 'test'
    return img


def make_folder(root: Path, names: tuple = NAMES, suffix: str = 'png') -> Path:
    for part, count in (('train', TRAIN), ('test', TEST)):
        for label, name in enumerate(names):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(pixels(part, label, i))
                image.save(folder / f'{i:04d}.{suffix}')
    return root


def write_batch(path: Path, part: str, order: list, key: str) -> list[str]:
    """Write a file as the official ones are; return its list entry."""
    rows = [pixels(part, *item).transpose(2, 0, 1).ravel() for item in order]
    batch = {'data': np.stack(rows), key: [label for label, _ in order]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(batch))
    return [path.name, hashlib.md5(path.read_bytes()).hexdigest()]


def make_official(root: Path, monkeypatch: Any, cls: Any = CIFAR10) -> list:
    """Write official files, mixed up; return their training samples."""
    labels = len(cls.METAINFO['classes'])
    order = [(label, i) for i in range(TRAIN) for label in range(labels)]
    np.random.RandomState(3).shuffle(order)
    # Number the samples of a class as they come.
    counts: Counter = Counter()
    for n, (label, _) in enumerate(order):
        order[n] = (label, counts[label])
        counts[label] += 1
    tests = [(label, i) for i in range(TEST) for label in range(labels)]
    folder = root / cls.base_folder
    key = 'labels' if cls is CIFAR10 else 'fine_labels'
    for name, files in (
        ('train_list', dict(a=('train', order[:25]), b=('train', order[25:]))),
        ('test_list', dict(c=('test', tests[::-1]))),
    ):
        entries = [write_batch(folder / k, *files[k], key) for k in files]
        monkeypatch.setattr(cls, name, entries, raising=False)
    return [('train', *item) for item in order]


DATA = Path(__file__).with_name('data')
PACKED = [dict(type='PackInputs')]
WHOLE = dict(pipeline=PACKED, whole_batches=True)
ORIGINAL = dict(type='m2at_mm.Digits', indices=24, serialize_data=False)


def arrays() -> dict[str, np.ndarray]:
    """Three real images of each class in place of generated ones."""
    folders = sorted((DATA / 'cifar10' / 'train').iterdir())
    files = [file for one in folders for file in sorted(one.iterdir())[:3]]
    images = np.stack([np.asarray(Image.open(file)) for file in files])
    return dict(image=images, label=np.repeat(np.arange(10), 3))


def save(folder: Path, **changes: Any) -> str:
    """Write the arrays, some of them changed or, with None, left out."""
    path = folder / 'generated.npz'
    kept = arrays() | changes
    np.savez(path, **{k: v for k, v in kept.items() if v is not None})
    return str(path)


def save_sparse(folder: Path, num: int) -> str:
    """Write ``num`` black images of class 0 that take no space on a disk."""
    path = folder / 'sparse.npz'
    shapes = dict(image=(num, 32, 32, 3), label=(num,))
    with ZipFile(path, 'w') as archive:
        for name, shape in shapes.items():
            kind = np.dtype(np.uint8 if name == 'image' else np.int64)
            hole = int(np.prod(shape)) * kind.itemsize
            with archive.open(f'{name}.npy', 'w', force_zip64=True) as file:
                header = dict(shape=shape, fortran_order=False)
                descr = npy.dtype_to_descr(kind)
                npy.write_array_header_1_0(file, dict(header, descr=descr))
                file._fileobj.seek(hole, 1)  # type: ignore[attr-defined]
                file._file_size += hole  # type: ignore[attr-defined]
    return str(path)


def both(path: str, **original: Any) -> dict[str, Any]:
    """Config of a dataset of digits and, behind them, generated images."""
    generated = dict(type='m2at_mm.GeneratedImages', ann_file=path)
    found = dict(original=ORIGINAL | WHOLE | original, generated=generated)
    return dict(found, type='m2at_mm.OriginalAndGenerated')
