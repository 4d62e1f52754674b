"""The order of the training images, and what is drawn on them."""

from typing import Any

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank, get_world_size
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor
from torch.utils import data
from torch.utils.data import DataLoader

from m2at_mm.datasets.inside import inner_datasets
from m2at_mm.datasets.seeded_pipeline import SeededPipeline
from m2at_mm.runner.train_loops import counts_epochs

# PyTorch's samplers that know nothing of other processes.
_RANDOM = (data.RandomSampler, data.SubsetRandomSampler)
_FOR_ONE = (*_RANDOM, data.SequentialSampler, data.WeightedRandomSampler)


def draws_differ(runner: Runner) -> bool:
    """Whether MMEngine seeds each process differently."""
    return bool(runner._randomness_cfg.get('diff_rank_seed', False))


def common_seed(runner: Runner) -> int:
    """The seed that all processes share, also with ``diff_rank_seed``."""
    seed: int = runner.seed
    return seed - get_rank() if draws_differ(runner) else seed


def check_sampler(runner: Runner) -> None:
    """Refuse a sampler that does not fit the loop or the processes."""
    for sampler in _samplers(runner.train_dataloader):
        name = type(sampler).__name__
        if counts_epochs(runner) and isinstance(sampler, InfiniteSampler):
            raise ValueError(
                f'train_dataloader.sampler={name} never ends, but the '
                'training loop counts epochs: use '
                "sampler=dict(type='DefaultSampler', shuffle=True), or "
                'train_cfg=dict(by_epoch=False, max_iters=...)'
            )
        if get_world_size() > 1 and type(sampler) in _FOR_ONE:
            raise ValueError(
                f'train_dataloader.sampler={name} gives each of '
                f"{get_world_size()} processes all images: use MMEngine's "
                "sampler=dict(type='DefaultSampler', shuffle=True), which "
                'divides them'
            )


def make_repeatable(runner: Runner, epoch: Tensor) -> None:
    """Let the data depend on seed and ``epoch``, int64 in shared memory."""
    loop, seed = runner.train_loop, common_seed(runner)
    loader = loop.dataloader
    for sampler in _samplers(loader):
        if hasattr(sampler, 'seed'):
            sampler.seed = seed
        if isinstance(sampler, InfiniteSampler):
            # Workers may have asked for the first images already.
            sampler.indices = sampler._indices_of_rank()
    # The workers' seeds are drawn from it, not from training's stream.
    loader.generator = torch.Generator()
    seed_pipelines(loader.dataset, seed, epoch)
    seed_epoch(loader, seed, 0)
    if isinstance(loop, IterBasedTrainLoop):
        # Its workers are at work already, with other seeds.
        loader._iterator = None
        loop.dataloader_iterator = type(loop.dataloader_iterator)(loader)


def seed_epoch(loader: DataLoader[Any], seed: int, epoch: int) -> None:
    """Begin an epoch the same whether or not epochs came before it."""
    # Workers that live on keep the seed that they were started with.
    lasting = loader.persistent_workers
    loader.generator.manual_seed(seed if lasting else seed + epoch)
    for sampler in _samplers(loader):
        if hasattr(sampler, 'generator'):  # one of PyTorch's
            sampler.generator = torch.Generator().manual_seed(seed + epoch)


def seed_pipelines(dataset: Any, seed: int, epoch: Tensor) -> None:
    """Give each dataset's pipeline streams of its own, also inside others."""
    number = 0
    for part in inner_datasets(dataset):
        pipeline = getattr(part, '__dict__', {}).get('pipeline')
        if pipeline is not None:
            if not isinstance(pipeline, SeededPipeline):
                part.pipeline = SeededPipeline(pipeline, seed, epoch, number)
            number += 1


def _samplers(loader: DataLoader[Any]) -> list[Any]:
    """What chooses the images; a batch sampler has its own inside."""
    batches = loader.batch_sampler
    if batches is None:
        return [loader.sampler]
    return [batches, getattr(batches, 'sampler', loader.sampler)]
