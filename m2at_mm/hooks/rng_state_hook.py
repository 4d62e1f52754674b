"""A resumed run is the uninterrupted one."""

from __future__ import annotations

import random
from typing import Any, Optional

import numpy as np
import torch
from mmengine import dist
from mmengine.hooks import CheckpointHook, Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, Runner

from m2at_mm.datasets.seeded_pipeline import SeededPipeline
from m2at_mm.registry import HOOKS

_KEY = 'rng_state'
_VALIDATED = 'validated_iter'


@HOOKS.register_module()
class RNGStateHook(Hook):
    """Save all random streams with a checkpoint, and go on with them.

    MMEngine restores the seed when it resumes, not the streams: the data come
    in another order, and augmentations, random starts and masks are others.
    With this hook a run that was interrupted equals the uninterrupted one, on
    the CPU bit for bit. For that it

    - saves and restores Python's, NumPy's and PyTorch's streams of every
      process;
    - gives the sampler the seed of the interrupted run, also where the config
      names none;
    - seeds augmentations by epoch and image, see
      :class:`m2at_mm.datasets.SeededPipeline`;
    - validates with streams of their own, so that a validation doesn't change
      the training after it;
    - repeats the validation that follows the checkpoint's epoch, which may
      have been interrupted, too.

    Args:
        revalidate (bool): Whether to repeat that validation. Defaults to
            True.

    Example:
        >>> default_hooks = dict(
        ...     rng_state=dict(type='m2at_mm.RNGStateHook'))
    """

    # Before the CheckpointHook, after the others.
    priority = 'LOW'

    def __init__(self, revalidate: bool = True) -> None:
        self.revalidate = revalidate
        self._states: Optional[dict[str, Any]] = None
        self._loaded: Optional[dict[str, Any]] = None
        self._training_streams: Optional[dict[str, Any]] = None
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    # --- saving ---

    def after_train_epoch(self, runner: Runner) -> None:
        """Gather the streams of all processes for a checkpoint."""
        if self._loaded is not None:  # the epoch's last batch was done, too
            self._restore(runner)
        self._gather(runner, at_epoch_end=True)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Optional[dict[str, Any]] = None,
    ) -> None:
        """Gather the streams where a checkpoint is about to be saved."""
        if any(_saves_now(hook, runner) for hook in runner.hooks):
            self._gather(runner, at_epoch_end=False)

    def before_save_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Put the streams into the checkpoint."""
        if self._states is not None:
            checkpoint[_KEY] = self._states

    def _gather(self, runner: Runner, at_epoch_end: bool) -> None:
        self._states = dict(
            ranks=dist.all_gather_object(_get_streams()),
            at_epoch_end=at_epoch_end,
        )

    # --- resuming ---

    def after_load_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Take the streams out of a checkpoint that is resumed from."""
        if not runner._resume:
            return
        self._loaded = checkpoint.get(_KEY)
        if self._loaded is None:
            print_log(
                'the checkpoint holds no random streams: the run goes on with '
                'other draws than the interrupted one',
                logger='current',
            )
        elif len(self._loaded['ranks']) != dist.get_world_size():
            print_log(
                f'the checkpoint is from {len(self._loaded["ranks"])} '
                f'processes, this run has {dist.get_world_size()}: it goes on '
                'with other draws than the interrupted one',
                logger='current',
            )
            self._loaded = None

    def before_train(self, runner: Runner) -> None:
        """Make the data repeatable, and restore what an epoch ended with."""
        sampler = runner.train_dataloader.sampler
        if hasattr(sampler, 'seed'):
            sampler.seed = runner.seed
        self._seed_pipelines(runner)
        loop = runner.train_loop
        if hasattr(loop, 'dataloader_iterator'):
            # It began before sampler and pipeline were seeded.
            loop.dataloader_iterator = type(loop.dataloader_iterator)(
                loop.dataloader
            )
        if self._loaded is None:
            return
        if self._loaded['at_epoch_end']:
            self._restore(runner)
            if self.revalidate and _validation_is_due(runner):
                runner.val_loop.run()

    def before_train_epoch(self, runner: Runner) -> None:
        """Tell the pipelines, also those in workers, which epoch it is."""
        self._epoch.fill_(runner.epoch)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None
    ) -> None:
        """Restore what an iteration ended with, once the data are there."""
        if self._loaded is not None:
            self._restore(runner)

    def _restore(self, runner: Runner) -> None:
        assert self._loaded is not None
        _set_streams(self._loaded['ranks'][dist.get_rank()])
        self._loaded = None
        if hasattr(runner.model, 'keep_random_streams'):
            runner.model.keep_random_streams()

    def _seed_pipelines(self, runner: Runner) -> None:
        todo = [runner.train_dataloader.dataset]
        while todo:
            dataset = todo.pop()
            todo += getattr(dataset, 'datasets', [])
            if hasattr(dataset, 'dataset'):
                todo.append(dataset.dataset)
            pipeline = getattr(dataset, 'pipeline', None)
            if pipeline is not None and not isinstance(
                pipeline, SeededPipeline
            ):
                dataset.pipeline = SeededPipeline(
                    pipeline, runner.seed, self._epoch
                )

    # --- validation ---

    def before_val_epoch(self, runner: Runner) -> None:
        """Validate with streams that depend on the seed alone."""
        # A new best checkpoint is saved after it.
        in_epochs = isinstance(runner._train_loop, EpochBasedTrainLoop)
        self._gather(runner, at_epoch_end=in_epochs)
        self._training_streams = _get_streams()
        if runner.seed is not None:
            seed = (runner.seed + dist.get_rank()) % 2**32
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)

    def after_val_epoch(
        self, runner: Runner, metrics: Optional[dict[str, float]] = None
    ) -> None:
        """Give training its streams back."""
        if self._training_streams is not None:
            _set_streams(self._training_streams)
            self._training_streams = None
        # A checkpoint saved from here on needs no other validation.
        runner.message_hub.update_info(_VALIDATED, runner.iter)


def _get_streams() -> dict[str, Any]:
    """The states of this process's streams, in types that load safely."""
    version, words, gauss = random.getstate()
    state: Any = np.random.get_state()
    name, keys, position, has_gauss, cached = state
    streams: dict[str, Any] = dict(
        python=[version, list(words), gauss],
        numpy=[name, keys.tolist(), position, has_gauss, float(cached)],
        torch=torch.get_rng_state(),
    )
    if torch.cuda.is_available():
        streams['cuda'] = torch.cuda.get_rng_state()
    return streams


def _set_streams(streams: dict[str, Any]) -> None:
    version, words, gauss = streams['python']
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = streams['numpy']
    np.random.set_state(
        (name, np.array(keys, dtype=np.uint32), position, has_gauss, cached)
    )
    torch.set_rng_state(streams['torch'].cpu())
    if 'cuda' in streams and torch.cuda.is_available():
        torch.cuda.set_rng_state(streams['cuda'].cpu())


def _saves_now(hook: Hook, runner: Runner) -> bool:
    """Whether a checkpoint follows this iteration."""
    if not isinstance(hook, CheckpointHook) or hook.by_epoch:
        return False
    return hook.every_n_train_iters(
        runner, hook.interval, hook.save_begin
    ) or (hook.save_last and hook.is_last_train_iter(runner))


def _validation_is_due(runner: Runner) -> bool:
    """Whether the epoch that was finished last is followed by one."""
    loop = runner.train_loop
    return (
        isinstance(loop, EpochBasedTrainLoop)
        and runner.val_loop is not None
        and runner.message_hub.runtime_info.get(_VALIDATED) != loop.iter
        and loop.epoch >= max(1, loop.val_begin)
        and (
            loop.epoch % loop.val_interval == 0
            or loop.epoch == loop.max_epochs
        )
    )
