"""The images of each process, and what is drawn on them."""

import tempfile
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from digits_runner import AUGMENTED, quick_cfg, small_digits_config
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader, RandomSampler
from two_processes import on_two_processes

from m2at_mm.datasets import Digits
from m2at_mm.runner.train_loops import (
    check_sampler,
    seed_epoch,
    seed_pipelines,
)

IMAGES, BATCH = 12, 3
SAMPLERS: dict[str, dict[str, Any]] = {
    'default': dict(type='DefaultSampler', shuffle=True),
    'infinite': dict(type='InfiniteSampler', shuffle=True),
    'sequential': dict(
        type='mmpretrain.SequentialSampler', subsample_type='sequential'
    ),
    'repeated': dict(type='mmpretrain.RepeatAugSampler', num_repeats=1),
}


class Look(Hook):
    """Notes the images of each iteration."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def before_train_iter(self, *_: Any, data_batch: Any, **__: Any) -> None:
        samples = data_batch['data_samples']
        self.seen += [int(sample.sample_idx) for sample in samples]


def digits(folder: Path, sampler: str) -> Any:
    cfg = small_digits_config(folder, IMAGES, BATCH, network=quick_cfg)
    cfg.train_dataloader.sampler = SAMPLERS[sampler]
    return cfg


def _run(sampler: str, diff: bool, hooked: bool) -> Any:
    """The images of a run, and a draw after it."""
    cfg = digits(Path(tempfile.mkdtemp()), sampler)
    cfg.train_cfg = dict(by_epoch=True, max_epochs=2)
    if sampler == 'infinite':
        cfg.train_cfg = dict(by_epoch=False, max_iters=4)
    randomness = dict(seed=None, diff_rank_seed=diff)
    cfg.update(launcher='pytorch', log_level='ERROR', randomness=randomness)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint = cfg.data_preprocessor.augment = None
    data = dict(pipeline=AUGMENTED, whole_batches=False)
    cfg.train_dataloader.dataset.update(data)
    if not hooked:
        del cfg.default_hooks.rng_state
    runner, look = Runner.from_cfg(cfg), Look()
    runner.register_hook(look, priority='LOWEST')
    runner.train()
    return [look.seen, torch.rand(()).item()]


CASES = [*product(SAMPLERS, (True, False), (True,)), ('default', True, False)]


def _work(rank: int) -> Any:
    return [_run(*case) for case in CASES]


def test_processes_divide_the_images(tmp_path: Path) -> None:
    """Two epochs, in which each image is seen once by one process."""
    found = on_two_processes(_work, tmp_path)
    for case, (first, one), (second, other) in zip(CASES, *found):
        half = IMAGES // 2
        assert len(first) == len(second) == 2 * half, case
        for epoch in (slice(half), slice(half, None)):
            seen = first[epoch] + second[epoch]
            assert sorted(seen) == list(range(IMAGES)), case
        if case[0] != 'sequential':
            assert first[:half] != first[half:], case
        assert one != other, case


def loader_of(dataset: Any, sampler: Any = None, **settings: Any) -> Any:
    loader = DataLoader(dataset, sampler=sampler, **settings)
    loader.generator = torch.Generator()
    return loader


def test_a_sampler_for_one_process_is_refused(monkeypatch: Any) -> None:
    loader = loader_of(range(4), RandomSampler(range(4)))
    runner = SimpleNamespace(train_dataloader=loader, train_loop=None)
    check_sampler(runner)
    monkeypatch.setattr('m2at_mm.runner.train_loops.get_world_size', lambda: 2)
    with pytest.raises(ValueError, match='RandomSampler gives each of 2'):
        check_sampler(runner)


def test_an_epoch_begins_the_same_and_not_as_the_next() -> None:
    def begin(epoch: int, **settings: Any) -> tuple[list[int], int]:
        """The order, and the seed of the workers."""
        loader = loader_of(range(20), RandomSampler(range(20)), **settings)
        seed_epoch(loader, 7, epoch)
        seed = torch.empty(()).random_(generator=loader.generator)
        return list(loader.sampler), int(seed)

    torch.manual_seed(0)
    first, second = begin(0), begin(1)
    torch.manual_seed(1)
    assert begin(1) == second and begin(0) == first
    assert first[0] != second[0] and first[1] != second[1]
    lasting: dict[str, Any] = dict(num_workers=1, persistent_workers=True)
    assert begin(0, **lasting)[1] == begin(1, **lasting)[1]


def _noisy_digits() -> Digits:
    jitter = dict(type='ColorJitter', brightness=0.9)
    return Digits(split='val', indices=4, pipeline=[jitter])


WRAPPERS: dict[str, Any] = {
    'plain': lambda one: one,
    'repeated': lambda one: RepeatDataset(one, 2),
    'concatenated': lambda one: ConcatDataset([one, _noisy_digits()]),
}


@pytest.mark.parametrize('kind', WRAPPERS)
def test_pipelines_inside_wrappers_are_seeded(kind: str) -> None:
    dataset = WRAPPERS[kind](_noisy_digits())
    seed_pipelines(dataset, 7, torch.zeros((), dtype=torch.int64))

    def pixels() -> list[Any]:
        for part in getattr(dataset, 'datasets', [dataset]):
            # Counts anew how often an image was read.
            getattr(part, 'dataset', part).pipeline._counted_epoch = -1
        return [dataset[k]['img'] for k in range(len(dataset))]

    torch.manual_seed(0)
    first = pixels()
    torch.manual_seed(1)
    assert all((a == b).all() for a, b in zip(first, pixels()))
    if isinstance(dataset, ConcatDataset):  # drawn on apart in both parts
        assert not all((first[k] == first[k + 4]).all() for k in range(4))
