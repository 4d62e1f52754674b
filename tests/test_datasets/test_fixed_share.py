"""The share of original and generated images in every batch."""

import copy
import tempfile
from itertools import chain, islice
from pathlib import Path
from typing import Any

import digits_runner as runs
import pytest
from data_files import ORIGINAL, both, save
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner
from torch.utils.data import SequentialSampler
from two_processes import on_two_processes

from m2at_mm.datasets import FixedShareBatchSampler

ORIGINALS = {*range(24)}
SAMPLERS = ('DefaultSampler', 'InfiniteSampler')


def dataset_of(folder: Path) -> Any:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return DATASETS.build(both(save(folder)))


def batches(dataset: Any, sampler: str, **settings: Any) -> list[list[int]]:
    """The indices of an epoch, or as many of an endless sampler."""
    mixed = dict(type='m2at_mm.FixedShareBatchSampler', **settings)
    cfg = dict(dataset=dataset, batch_size=10, batch_sampler=mixed)
    cfg['sampler'] = dict(type=sampler, shuffle=True)
    loader = Runner.build_dataloader(cfg, seed=3)
    found = [*islice(loader.batch_sampler, len(loader) + 1)]
    endless = sampler == 'InfiniteSampler'
    assert len(found) == len(loader) + endless
    return found


def parts(every: list[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Original and generated indices of each batch."""
    original = [[k for k in one if k in ORIGINALS] for one in every]
    return original, [[k for k in one if k not in ORIGINALS] for one in every]


@pytest.mark.parametrize('sampler', SAMPLERS)
@pytest.mark.parametrize('count', [1, 3, 5, 7])
def test_share_of_each_batch(sampler: str, count: int, tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path)
    every = batches(dataset, sampler, original_share=count / 10)
    original, generated = parts(every)
    assert {len(one) for one in original} == {count}
    assert {len(one) for one in generated} == {10 - count}
    assert max(map(max, generated)) < len(dataset) == 54
    assert {*chain(*original)} == ORIGINALS
    if sampler == 'DefaultSampler':
        assert len(every) == -(-24 // count)
    # Neither kind has a place of its own.
    assert len({one.index(min(one)) for one in every}) > 1
    assert every == batches(dataset, sampler, original_share=count / 10)


def test_length_of_an_epoch_and_the_next_one(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path)
    for number in (2, 20):
        settings = dict(batches_per_epoch=number)
        assert len(batches(dataset, 'DefaultSampler', **settings)) == number
    sampler = FixedShareBatchSampler(DefaultSampler(dataset, seed=0), 10)
    first = [*sampler]
    sampler.sampler.set_epoch(1)
    for one, other in zip(parts(first), parts([*sampler])):
        assert one != other
    sampler.sampler.set_epoch(0)
    assert [*sampler] == first


def _work(rank: int) -> Any:
    dataset = dataset_of(Path(tempfile.mkdtemp()))
    return [batches(dataset, sampler) for sampler in SAMPLERS]


def test_processes_have_images_of_their_own(tmp_path: Path) -> None:
    found = on_two_processes(_work, tmp_path)
    for sampler, *ranks in zip(SAMPLERS, *found):
        (one, ours), (other, theirs) = map(parts, ranks)
        assert {len(k) for k in one + other} == {3}
        assert {len(k) for k in ours + theirs} == {7}
        assert not {*chain(*ours)} & {*chain(*theirs)}
        if sampler == 'DefaultSampler':  # an epoch, 12 for each
            assert {*chain(*one)} | {*chain(*other)} == ORIGINALS
            assert not {*chain(*one)} & {*chain(*other)}


@pytest.mark.parametrize('loop', runs.LOOPS)
@pytest.mark.parametrize('workers', [0, 2])
def test_resumed_goes_on(loop: str, workers: int, tmp_path: Path) -> None:
    whole = workers > 0  # otherwise augmented by the dataset
    data = both(save(tmp_path), **ORIGINAL, split='train', whole_batches=whole)
    if not whole:
        data['original']['pipeline'] = runs.AUGMENTED
    share = dict(type='m2at_mm.FixedShareBatchSampler', original_share=2 / 3)
    # 8 originals of 12 images: three batches in an epoch.
    loader = dict(dataset=dict(data, _delete_=True), num_workers=workers)
    loader |= dict(batch_size=12, batch_sampler=share)

    def build(name: str) -> Runner:
        own = copy.deepcopy(dict(train_dataloader=loader))
        folder = tmp_path / name
        return runs.build_runner(folder, loop, whole_batches=whole, **own)

    runs.resumes(build, runs.KillAt(5))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    'no original': (dict(original_share=0.04), r'=0\.04 .*0 original and 10'),
    'no generated': (dict(original_share=0.97), '10 original and 0 generated'),
    'batch of one': (dict(batch_size=1), 'batch_size=1 gives 0 .*: choose'),
    'per cent': (dict(original_share=30), 'original_share=30 .*below 1'),
    'text': (dict(original_share='30%'), "original_share='30%' must be"),
    'length': (dict(batches_per_epoch=0), 'batches_per_epoch=0 must be'),
}


@pytest.mark.parametrize('name', BAD)
def test_a_wrong_setting_is_refused(name: str, tmp_path: Path) -> None:
    settings, message = BAD[name]
    sampler = DefaultSampler(dataset_of(tmp_path), seed=0)
    with pytest.raises(ValueError, match=message):
        FixedShareBatchSampler(sampler, **dict(batch_size=10) | settings)


def test_samplers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path)
    message = r'DefaultSampler of a Digits .*OriginalAndGenerated'
    with pytest.raises(ValueError, match=message):
        sampler = DefaultSampler(dataset.datasets[0], seed=0)
        FixedShareBatchSampler(sampler, 10)
    with pytest.raises(ValueError, match=r'SequentialSampler .*: use Default'):
        FixedShareBatchSampler(SequentialSampler(dataset), 10)
    endless = InfiniteSampler(dataset, seed=0)
    with pytest.raises(ValueError, match=r'=5 does nothing .*: leave it out'):
        FixedShareBatchSampler(endless, 10, batches_per_epoch=5)
