"""Small data sets of CIFAR's form."""

import hashlib
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
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


def make_official(
    root: Path, monkeypatch: pytest.MonkeyPatch, cls: type[CIFAR10] = CIFAR10
) -> list[tuple[str, int, int]]:
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
