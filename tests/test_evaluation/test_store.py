import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from m2at_mm.evaluation import ResultStore, store
from m2at_mm.evaluation.store import digest, digest_module


@pytest.mark.parametrize('images_folder', [None, 'images'])
def test_saved_is_loaded(images_folder: str | None, tmp_path: Path) -> None:
    folders = tmp_path / 'new', images_folder and tmp_path / images_folder
    store = ResultStore(folders[0], {}, folders[1])
    arrays = dict(index=np.arange(3), seconds=np.array([0.5]))
    assert store.load_batch('a/b') is None and store.load_dict('c') is None
    images = torch.rand(3, 1, 2, 2)
    store.save_batch('a/b', arrays, images)
    store.save_dict('c', dict(x=1.5))
    loaded = ResultStore(tmp_path / 'new', {}).load_batch('a/b')
    assert loaded is not None and loaded.keys() == arrays.keys()
    for name in arrays:
        np.testing.assert_array_equal(loaded[name], arrays[name])
    assert store.load_dict('c') == dict(x=1.5)
    if images_folder:
        (path,) = (tmp_path / images_folder).rglob('*.npz')
        with np.load(path) as kept:
            assert np.array_equal(kept['adversarial'], images.numpy())
        path.unlink()  # then the batch is not complete
    assert (store.load_batch('a/b') is None) == bool(images_folder)


def test_digest_tells_settings_apart() -> None:
    one = digest(dict(a=1, b=[2]), np.arange(3))
    assert one == digest(dict(b=[2], a=1), np.arange(3))
    assert len(one) == 12
    assert one != digest(dict(a=1, b=[2]), np.arange(4))
    assert one != digest(dict(a=1, b=[3]), np.arange(3))
    assert digest('ab', 'c') != digest('a', 'bc')


def test_digest_of_a_module_follows_weights_and_hidden_buffers() -> None:
    torch.manual_seed(0)
    module = nn.Linear(2, 2)
    module.register_buffer('mean', torch.zeros(2), persistent=False)
    first = digest_module(module)
    assert digest_module(module) == first
    module.mean += 1
    second = digest_module(module)
    with torch.no_grad():
        module.weight[0, 0] += 1e-6
    assert len({first, second, digest_module(module)}) == 3


def test_json_of_anything() -> None:
    deep = [dict(low=-float('inf')), (1.5, None)]
    content = dict(nan=float('nan'), deep=deep, path=Path('a'))
    read = json.loads(store.to_json(content), parse_constant=pytest.fail)
    assert read['nan'] == 'nan'
    assert read['deep'] == [{'low': '-inf'}, [1.5, None]]


def test_other_settings_or_images(tmp_path: Path, monkeypatch: Any) -> None:
    said: list[str] = []
    monkeypatch.setattr(store, 'print_log', lambda m, logger: said.append(m))
    settings = dict(seed=0, weights='a', limit=float('inf'))

    def opened(images: str, **other: Any) -> Path:
        store = ResultStore(tmp_path, settings | other).for_images(images)
        assert store.load_dict('settings')
        return store.folder

    first = opened('one')
    assert first.parent == tmp_path and opened('one') == first and not said
    second = opened('two')
    assert str(first) in said[0] and said[0].endswith('differs in images')
    third = opened('two', seed=1, weights='b')
    assert said[1].endswith('differs in seed, weights') and len(said) == 2
    assert len({first, second, third}) == 3
