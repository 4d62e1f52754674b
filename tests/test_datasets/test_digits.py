import sys
from functools import cache

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS as ROOT_DATASETS
from pytest import MonkeyPatch
from sklearn.datasets import load_digits

from m2at_mm.datasets import Digits

SIZES = {'train': 1297, 'val': 200, 'test': 300}


@cache
def loaded(split: str) -> tuple[np.ndarray, np.ndarray]:
    samples = [*Digits(split=split)]
    images = np.stack([sample['img'] for sample in samples])
    return images, np.array([sample['gt_label'] for sample in samples])


@pytest.mark.parametrize('split', SIZES)
def test_shapes_and_class_counts(split: str) -> None:
    images, labels = loaded(split)
    assert images.shape == (SIZES[split], 32, 32, 3)
    assert images.dtype == np.uint8
    assert images.min() == 0 and images.max() == 255
    assert (images == images[..., :1]).all()
    if split == 'train':
        assert np.bincount(labels).min() >= 174 - 50
    else:
        assert (np.bincount(labels) == SIZES[split] // 10).all()
    first = Digits(split=split, indices=95).get_gt_labels()
    assert first[:20].tolist() == [*range(10)] * 2
    assert set(np.bincount(first)) == {9, 10}


def test_splits_are_scikit_learns_digits_each_once() -> None:
    # Upscaled by torch instead of OpenCV.
    digits = load_digits()
    small = torch.from_numpy(digits.images)[:, None] * 255 / 16
    size = dict(scale_factor=4, mode='bicubic')
    reference = torch.nn.functional.interpolate(small, **size)
    every = reference.clamp(0, 255).flatten(1).numpy()
    seen = []
    for split in SIZES:
        images, labels = loaded(split)
        flat = images[..., 0].reshape(len(images), -1).astype(np.float64)
        # Nearest reference by |a - b|^2 = |a|^2 - 2 a.b + |b|^2.
        match = ((every**2).sum(1) - 2 * flat @ every.T).argmin(1)
        # One grey level off is for the rounding.
        assert np.abs(every[match] - flat).max() <= 1
        assert (digits.target[match] == labels).all()
        seen += match.tolist()
    assert sorted(seen) == list(range(1797))


def test_builds_from_config_with_pipeline_and_lazy_init() -> None:
    pack = dict(type='PackInputs')
    cfg = dict(split='test', test_mode=True, lazy_init=True, pipeline=[pack])
    dataset = ROOT_DATASETS.build(dict(cfg, type='m2at_mm.Digits'))
    assert not dataset._fully_initialized
    assert dataset.metainfo['classes'] == tuple('0123456789')
    letters = Digits('val', dict(classes=[*'abcdefghij']), lazy_init=True)
    assert letters.CLASSES == [*'abcdefghij']
    dataset.full_init()
    sample = dataset[3]
    assert sample['inputs'].shape == (3, 32, 32)
    assert sample['data_samples'].gt_label.item() == 3
    assert 'test' in repr(dataset)


def test_no_scikit_learn(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(ImportError, match=r'm2at_mm\[demo\]'):
        Digits()
