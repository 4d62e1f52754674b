"""Batches with a fixed share of original and of generated images."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import get_dist_info
from torch.utils.data import Sampler

from m2at_mm.checks import check_count, check_number
from m2at_mm.datasets.generated import OriginalAndGenerated
from m2at_mm.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class FixedShareBatchSampler(Sampler[list[int]]):
    """Batches in which the number of original images is always the same.

    For a dataloader with an :class:`OriginalAndGenerated` dataset::

        sampler=dict(type='DefaultSampler', shuffle=True),
        batch_sampler=dict(type='m2at_mm.FixedShareBatchSampler'),

    The sampler orders the original images and divides them among the
    processes. The generated ones are drawn with replacement, as in the code of
    arXiv 2103.01946 and 2302.04638, each process from a part of its own, by
    seed and epoch. The first original images of the epoch fill up its last
    batch.

    Args:
        sampler (DefaultSampler | InfiniteSampler): Built by MMEngine.
        batch_size (int): Images in a batch of one process.
        original_share (float): Share of original images in a batch, in
            (0, 1), rounded to the nearest number of images.
        batches_per_epoch (int, optional): By default each original image
            comes once.

    Raises:
        ValueError: An argument is wrong, or a batch would lack one kind.
    """

    def __init__(
        self,
        sampler: Any,
        batch_size: int,
        original_share: float = 0.3,
        batches_per_epoch: int | None = None,
    ) -> None:
        check_count('batch_size', batch_size)
        check_number('original_share', original_share, above=0, below=1)
        endless = isinstance(sampler, InfiniteSampler)
        if batches_per_epoch is not None:
            check_count('batches_per_epoch', batches_per_epoch)
            if endless:
                raise ValueError(
                    f'batches_per_epoch={batches_per_epoch} does nothing with '
                    'an InfiniteSampler: leave it out, or use '
                    "sampler=dict(type='DefaultSampler', shuffle=True)"
                )
        dataset = getattr(sampler, 'dataset', None)
        known = endless or isinstance(sampler, DefaultSampler)
        if not known or not isinstance(dataset, OriginalAndGenerated):
            raise ValueError(
                f'sampler={type(sampler).__name__} of a '
                f'{type(dataset).__name__} gives no original and generated '
                'images: use DefaultSampler or InfiniteSampler, and '
                "dataset=dict(type='m2at_mm.OriginalAndGenerated', ...)"
            )
        self.batch_size, self.batches_per_epoch = batch_size, batches_per_epoch
        count = self.num_original = round(batch_size * original_share)
        if not 0 < count < batch_size:
            raise ValueError(
                f'original_share={original_share} of {batch_size=} gives '
                f'{count} original and {batch_size - count} generated images '
                'in a batch: choose a larger batch_size, or a share that '
                'leaves at least one of each'
            )
        self.num_generated = len(dataset.datasets[1])
        # Of the original images alone; its seed and epoch are set from here.
        how = dict(shuffle=sampler.shuffle, seed=sampler.seed)
        self.sampler = type(sampler)(dataset.datasets[0], **how)

    def __len__(self) -> int:
        needed: int = -(-len(self.sampler) // self.num_original)
        return self.batches_per_epoch or needed

    def __iter__(self) -> Iterator[list[int]]:
        rank, world_size = get_dist_info()
        order = iter(self.sampler)
        if not isinstance(self.sampler, InfiniteSampler):
            once = np.array([*order])
            order = iter(np.resize(once, len(self) * self.num_original))
        number, drawn = self.num_generated, self.batch_size - self.num_original
        own = max(1, -(-(number - rank) // world_size))
        epoch = getattr(self.sampler, 'epoch', 0)
        rng = np.random.default_rng((self.sampler.seed, epoch, rank))
        while original := [*islice(order, self.num_original)]:
            generated = rank + world_size * rng.integers(own, size=drawn)
            generated = len(self.sampler.dataset) + generated % number
            yield rng.permutation([*original, *generated]).tolist()
