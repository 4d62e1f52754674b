"""Training loops: what they count, do next, and the order of their data."""

from bisect import bisect
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.runner.base_loop import BaseLoop
from torch import Tensor
from torch.utils import data
from torch.utils.data import DataLoader

from m2at_mm.checks import check_count
from m2at_mm.datasets.inside import inner_datasets
from m2at_mm.datasets.seeded_pipeline import SeededPipeline
from m2at_mm.model_wrappers.distributed import bare_model
from m2at_mm.registry import LOOPS

# PyTorch's samplers that know nothing of other processes.
_RANDOM = (data.RandomSampler, data.SubsetRandomSampler)
_FOR_ONE = (*_RANDOM, data.SequentialSampler, data.WeightedRandomSampler)


@LOOPS.register_module()
class ResumableEpochTrainLoop(EpochBasedTrainLoop):
    """MMEngine's epochs, resumed at the batch after the checkpoint.

    MMEngine begins the epoch anew; this loop skips the batches that are done.
    With :class:`m2at_mm.RNGStateHook` the rest is that of a run that was never
    interrupted.
    """

    def run_epoch(self) -> None:
        """Train on the batches of an epoch that were not trained on yet."""
        in_epoch = self._max_iters // self._max_epochs
        done = self._iter - self._epoch * in_epoch
        repeats = in_epoch // len(self.dataloader)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, data_batch in enumerate(self.dataloader):
            if (index + 1) * repeats > done:
                self.run_iter(index, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


@LOOPS.register_module()
class RepeatedBatchTrainLoop(ResumableEpochTrainLoop):
    """Train on each batch several times before the next one is loaded.

    For free adversarial training, see :class:`m2at_mm.FreeAT`. An epoch has
    ``repeats`` times as many iterations as batches, so the authors divide the
    number of epochs by it. Schedulers that are converted from epochs to
    iterations (``convert_to_iter_based``) count batches.

    Args:
        *args (Any): See :class:`mmengine.runner.EpochBasedTrainLoop`.
        repeats (int): At least 1; 8 is the m of arXiv 1904.12843 for CIFAR-10.
        **kwargs (Any): See :class:`mmengine.runner.EpochBasedTrainLoop`.

    Raises:
        ValueError: The preprocessor would crop each repetition anew.
    """

    def __init__(self, *args: Any, repeats: int = 8, **kwargs: Any) -> None:
        check_count('repeats', repeats)
        super().__init__(*args, **kwargs)
        model = bare_model(self.runner.model)
        preprocessor = getattr(model, 'data_preprocessor', None)
        if getattr(preprocessor, 'augment', None) is not None:
            raise ValueError(
                'data_preprocessor.augment would crop and flip each '
                'repetition of a batch anew: set it to None, and give the '
                'dataset whole_batches=False and a pipeline with RandomCrop '
                'and RandomFlip, as free-at_resnet18_cifar10.py does'
            )
        self.repeats = repeats
        self._max_iters *= repeats

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Train on a batch ``repeats`` times."""
        # Fewer for the batch at which the run was interrupted.
        batches = self._epoch * len(self.dataloader) + idx
        done = self._iter - batches * self.repeats
        for repeat in range(done, self.repeats):
            super().run_iter(idx * self.repeats + repeat, data_batch)


def make_epochs_resumable(cfg: Config) -> None:
    """Use :class:`ResumableEpochTrainLoop` in a config, by-type loops stay."""
    loop = cfg.get('train_cfg')
    if loop is not None and loop.get('by_epoch') and 'type' not in loop:
        del loop['by_epoch']
        loop.type = 'm2at_mm.ResumableEpochTrainLoop'


def is_training(runner: Runner) -> bool:
    """Whether the Runner trains: it builds its training loop only for that."""
    return isinstance(runner._train_loop, BaseLoop)


def counts_epochs(runner: Runner) -> bool:
    """Whether there are epochs: a loop by iterations is a single one."""
    return not isinstance(runner.train_loop, IterBasedTrainLoop)


def refuse_epochs(runner: Runner, setting: str) -> None:
    """Refuse what is given by epoch, like ``'interval=2'``, in other loops."""
    if not counts_epochs(runner):
        raise ValueError(
            f'{setting} counts epochs (by_epoch=True), but the training loop '
            'counts iterations and has no epochs: set by_epoch=False there '
            'and give iterations'
        )


def checkpoint_follows(runner: Runner) -> bool:
    """Whether a CheckpointHook saves right after this ``after_train_iter``."""
    return any(
        hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
        or (hook.save_last and hook.is_last_train_iter(runner))
        for hook in runner.hooks
        if isinstance(hook, CheckpointHook) and not hook.by_epoch
    )


def validation_follows(runner: Runner, done: int) -> bool:
    """Whether the loop validates after ``done`` epochs, or iterations."""
    loop = runner.train_loop
    if runner.val_loop is None:
        return False
    # As in the loops' _decide_current_val_interval().
    step = bisect(loop.dynamic_milestones, done + 1)
    interval = loop.dynamic_intervals[step - 1]
    last = loop.max_epochs if counts_epochs(runner) else loop.max_iters
    due = done % interval == 0 or done == last
    return bool(due and done >= max(1, loop.val_begin))


def saves_or_validates(runner: Runner, done: int) -> bool:
    """Whether either follows iteration ``done``, other than by epoch."""
    validates = not counts_epochs(runner) and validation_follows(runner, done)
    return validates or checkpoint_follows(runner)


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
