"""Generated images against the arrays of their file."""

import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import PACKED, arrays, both, save, save_sparse
from mmengine.dataset import DefaultSampler, default_collate
from mmengine.registry import DATASETS, DefaultScope

from m2at_mm.datasets import FixedShareBatchSampler, GeneratedImages
from m2at_mm.datasets.inside import labels_of

NAMES = dict(classes=[str(k) for k in range(10)])
PIXELS, LABELS = arrays()['image'], arrays()['label']


@pytest.fixture(autouse=True)
def scope() -> Any:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def test_samples_are_those_of_the_file(tmp_path: Path) -> None:
    file = Path(save(tmp_path)).name
    settings = NAMES | dict(data_root=str(tmp_path), pipeline=PACKED)
    dataset = GeneratedImages(file, **settings)
    assert dataset.metainfo['classes'] == tuple(NAMES['classes'])
    assert dataset.get_gt_labels().tolist() == LABELS.tolist()
    for k in (0, 7, -1):
        info, sample = dataset.get_data_info(k), dataset[k]
        assert info['gt_label'] == sample['data_samples'].gt_label == LABELS[k]
        assert info['sample_idx'] == k % 30
        assert (info['img'] == PIXELS[k]).all()
        assert (sample['inputs'].numpy() == PIXELS[k].transpose(2, 0, 1)).all()
    info['img'][:] = 0  # nobody else's pixels
    assert dataset.get_data_info(k)['img'].any()


@pytest.mark.parametrize('indices', [5, -5, [4, 29, 4]])
def test_parts_and_copies_of_a_dataset(indices: Any, tmp_path: Path) -> None:
    path, order = save(tmp_path), [*range(30)]
    if isinstance(indices, int):
        order = order[:indices] if indices > 0 else order[indices:]
    else:
        order = indices
    part = GeneratedImages(path, indices=indices, **NAMES)
    subset = GeneratedImages(path, **NAMES).get_subset(indices)
    for one in (part, subset, pickle.loads(pickle.dumps(part))):
        assert one.get_gt_labels().tolist() == LABELS[order].tolist()
        assert [(s['img'] == PIXELS[k]).all() for s, k in zip(one, order)]


@pytest.mark.parametrize('whole', [True, False])
def test_a_batch_of_both(whole: bool, tmp_path: Path) -> None:
    dataset = DATASETS.build(both(save(tmp_path), whole_batches=whole))
    original, generated = dataset.datasets
    assert generated.metainfo == original.metainfo
    labels, found = [*original.get_gt_labels(), *LABELS], labels_of(dataset)
    assert found is not None and found.tolist() == labels
    indices = [30, 0, 53, 23, 24]
    batch = dataset.__getitems__(indices)
    assert isinstance(batch, dict) is dataset.whole_batches is whole
    expected = default_collate([dataset[k] for k in indices])
    samples = expected['data_samples']
    assert [int(s.gt_label) for s in samples] == [labels[k] for k in indices]
    if whole:
        assert torch.equal(batch['inputs'], expected['inputs'])
        found = batch['data_samples'].labels
        assert found.tolist() == [labels[k] for k in indices]


def test_an_image_costs_no_memory(tmp_path: Path) -> None:
    """Less than two bits, with an epoch's order and batches."""
    path, num = save_sparse(tmp_path, 50_000_000), 50_000_000
    tracemalloc.start()
    dataset = DATASETS.build(both(path))
    sampler = DefaultSampler(dataset, seed=0)
    batches = [*FixedShareBatchSampler(sampler, 8, 0.5)]
    for batch in batches:
        dataset.__getitems__(batch)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(dataset) == num + 24 and max(map(max, batches)) > num / 2
    assert peak < num / 4  # the digits in memory take 5 MB
    assert len(pickle.dumps(dataset.datasets[1])) < 10_000


# What the file has instead, and the message.
BAD: dict[str, tuple[dict[str, Any], str]] = {
    'no image': (dict(image=None), r"no 'image': save .*numpy\.savez"),
    'no label': (dict(label=None), r"\['image\.npy'\] and no 'label': save"),
    'floats': (dict(image=PIXELS / 255), 'image of float64, .*: save RGB'),
    'channels first': (dict(image=PIXELS.swapaxes(1, 3)), 'shape .30, 3, 32'),
    'flat': (dict(image=PIXELS.reshape(30, -1)), r'shape \(30, 3072\): save'),
    'none': (dict(image=PIXELS[:0], label=LABELS[:0]), r'shape \(0, 32, 32'),
    'one-hot': (dict(label=np.eye(10)[LABELS]), 'label of float64, .*index'),
    'a column': (dict(label=LABELS[:, None]), r'shape \(30, 1\), for 30 im'),
    'lengths': (dict(label=LABELS[1:]), r'shape \(29,\), for 30 images: save'),
    'objects': (
        dict(label=LABELS.astype(object)),
        'label of object, .*: save',
    ),
    'from 1': (dict(label=LABELS + 1), 'from 1 to 10, .* has 10 names: mend'),
    'negative': (dict(label=LABELS - 1), 'from -1 to 8, .*: mend the labels'),
}


@pytest.mark.parametrize('name', BAD)
def test_wrong_arrays_are_refused(name: str, tmp_path: Path) -> None:
    changes, message = BAD[name]
    path = save(tmp_path, **changes)
    message = f'^ann_file={path!r} has .*{message}'
    with pytest.raises(ValueError, match=message):
        GeneratedImages(path, **NAMES)


def test_a_file_that_cannot_be_mapped_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'no\.npz' is not there: gi"):
        GeneratedImages('no.npz', **NAMES)
    path = Path(save(tmp_path))
    with pytest.raises(ValueError, match=r'classes has 0 names: .* or name'):
        GeneratedImages(str(path))
    whole = path.read_bytes()
    for damaged in (whole[:-100], b'', whole.replace(b'NUMPY', b'numpy')):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r'damaged \(.*\): copy or do'):
            GeneratedImages(str(path), **NAMES)
    np.savez_compressed(path, image=PIXELS, label=LABELS)
    with pytest.raises(ValueError, match=r'compressed .*np\.savez') as caught:
        GeneratedImages(str(path), **NAMES)
    code = str(caught.value).partition('python -c "')[2].rstrip('"')
    target = str(tmp_path / 'uncompressed.npz')
    exec(code.replace('uncompressed.npz', target), {})  # the remedy works
    assert len(GeneratedImages(target, **NAMES)) == 30


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    cfg = both(save(tmp_path, image=PIXELS[:, :16]))
    message = r'\(3, 16, 32\), but those of Digits are \(3, 32, 32\): give'
    with pytest.raises(ValueError, match=message):
        DATASETS.build(cfg)
    cfg['generated']['pipeline'] = [dict(type='Resize', scale=32), *PACKED]
    with pytest.raises(ValueError, match='whole_batches=True gives images'):
        DATASETS.build(cfg)
    cfg['original']['whole_batches'] = False
    assert DATASETS.build(cfg)[24]['inputs'].shape == (3, 32, 32)
    cfg['generated']['classes'] = [str(k) for k in range(11)]
    with pytest.raises(ValueError, match='does not match meta information'):
        DATASETS.build(cfg)
