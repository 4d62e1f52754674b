"""Transforms whose random draws depend on epoch and image alone."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from torch import Tensor
from torch.utils.data import get_worker_info

# Whether a reader of images has chosen the streams already.
_given_streams = False


@dataclass(eq=False, repr=False)
class SeededPipeline:
    """A dataset's pipeline with random streams of its own for each image.

    The draws for an image depend on the seed, the epoch, its position in the
    dataset, the process that reads it and how often that process has read it
    in the epoch alone. So a resumed run augments as an uninterrupted one with
    the same number of workers. The streams outside are left as they were.
    """

    pipeline: Callable[[dict[str, Any]], Any]
    seed: int
    #: int64 of shape (), in shared memory: persistent workers see it change.
    epoch: Tensor
    #: Number of the dataset where several are concatenated.
    part: int = 0

    def __post_init__(self) -> None:
        self.rank = get_rank()
        self._counted_epoch = -1
        self._times: Counter[int] = Counter()

    def __call__(self, data: dict[str, Any]) -> Any:
        """Transform a sample of an MMEngine dataset, with ``sample_idx``."""
        index = data.get('sample_idx')
        if index is None or _given_streams:
            return self.pipeline(data)
        epoch = int(self.epoch)
        if epoch != self._counted_epoch:
            self._counted_epoch = epoch
            self._times.clear()
        worker = get_worker_info()
        # A worker's seed is new with each iterator.
        process = (self.rank,) if worker is None else (self.rank, worker.seed)
        image = (self.part, int(index), self._times[index])
        self._times[index] += 1
        with given_streams((self.seed, *process, epoch, *image)):
            return self.pipeline(data)

    def __getattr__(self, name: str) -> Any:
        """Attributes that hooks look for are those of the pipeline."""
        if name.startswith('__') or name == 'pipeline':
            raise AttributeError(name)
        return getattr(self.pipeline, name)


@contextmanager
def given_streams(draw: tuple[int, ...]) -> Iterator[None]:
    """Seed the random streams by ``draw``; no SeededPipeline inside does."""
    global _given_streams
    before, _given_streams = _given_streams, True
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    first, second, third = np.random.SeedSequence(draw).generate_state(3)
    random.seed(int(first))
    np.random.seed(int(second))
    # torch.manual_seed would seed the GPUs, too.
    torch.default_generator.manual_seed(int(third))
    try:
        yield
    finally:
        _given_streams = before
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
