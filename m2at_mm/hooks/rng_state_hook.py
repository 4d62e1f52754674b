"""A resumed run is the uninterrupted one."""

from __future__ import annotations

import logging
from typing import Any, Optional

import torch
from mmengine import dist
from mmengine.hooks import CheckpointHook, Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.logging import print_log
from mmengine.runner import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    Runner,
    set_random_seed,
)
from torch.utils.data import DataLoader

from m2at_mm.datasets.seeded_pipeline import SeededPipeline
from m2at_mm.registry import HOOKS
from m2at_mm.runner.process_state import (
    process_state,
    set_process_state,
    set_random_streams,
)

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
      process, its running statistics, and what a method like
      :class:`m2at_mm.FreeAT` keeps;
    - gives the sampler the seed of the interrupted run, also where the config
      names none;
    - seeds augmentations by epoch and image, see
      :class:`m2at_mm.datasets.SeededPipeline`;
    - draws apart in each process, also without
      :class:`m2at_mm.AdversarialDistributedDataParallel`;
    - validates with streams of their own, so that a validation doesn't change
      the training after it;
    - repeats a validation that was due after the checkpoint.

    From a checkpoint in the middle of an epoch, MMEngine begins the epoch
    anew; :class:`m2at_mm.ResumableEpochTrainLoop` goes on. Gradients that
    were accumulated but not yet applied are in no checkpoint.

    Example:
        >>> default_hooks = dict(
        ...     rng_state=dict(type='m2at_mm.RNGStateHook'))
    """

    # Before the CheckpointHook, after the others.
    priority = 'LOW'

    def __init__(self) -> None:
        self._states: Optional[dict[str, Any]] = None
        self._loaded: Optional[dict[str, Any]] = None
        self._training_streams: Optional[dict[str, Any]] = None
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def before_run(self, runner: Runner) -> None:
        """Have a validation repeated once all hooks are ready."""
        runner.register_hook(_RevalidationHook(), priority='LOWEST')

    # --- saving ---

    def after_train_epoch(self, runner: Runner) -> None:
        """Gather the streams of all processes for a checkpoint."""
        if self._loaded is not None:  # the epoch's last batch was done, too
            self._go_on(runner)
            runner.message_hub.update_info('iter', runner.iter - 1)
        self.gather(runner, at_epoch_end=True)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Optional[dict[str, Any]] = None,
    ) -> None:
        """Gather the streams where a checkpoint is about to be saved."""
        if any(_saves_now(hook, runner) for hook in runner.hooks):
            self.gather(runner, at_epoch_end=False)

    def before_save_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Put the streams into the checkpoint."""
        if self._states is not None:
            checkpoint[_KEY] = self._states

    def gather(self, runner: Runner, at_epoch_end: bool) -> None:
        """Collect the streams for the next checkpoint; all processes must.

        Args:
            runner (Runner): The training's.
            at_epoch_end (bool): Whether an epoch was finished.
        """
        self._states = dict(
            ranks=dist.all_gather_object(process_state(runner.model)),
            at_epoch_end=at_epoch_end,
        )

    # --- resuming ---

    def after_load_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Take the streams out of a checkpoint that is resumed from."""
        if not runner._resume:
            return
        loaded = checkpoint.get(_KEY)
        if loaded is None:
            _say('the checkpoint holds no random streams')
        elif len(loaded['ranks']) != dist.get_world_size():
            _say(
                f'the checkpoint is from {len(loaded["ranks"])} processes, '
                f'this run has {dist.get_world_size()}'
            )
        elif (
            not loaded['at_epoch_end']
            and type(runner.train_loop) is EpochBasedTrainLoop
        ):
            _say(
                'the checkpoint is from the middle of an epoch, which begins '
                'anew: train_cfg.type=m2at_mm.ResumableEpochTrainLoop would '
                'go on in it'
            )
        else:
            self._loaded = loaded

    def before_train(self, runner: Runner) -> None:
        """Make the data repeatable, and go on with the streams."""
        loop = runner.train_loop
        if isinstance(loop, IterBasedTrainLoop):
            # Its workers are at work already, with other seeds.
            loop.dataloader = _rebuilt(loop.dataloader, runner)
        loader = loop.dataloader
        if hasattr(loader.sampler, 'seed'):
            loader.sampler.seed = runner.seed
        # The workers' seeds are drawn from it, not from training's stream.
        loader.generator = torch.Generator()
        loader.generator.manual_seed(runner.seed)
        self._seed_pipelines(loader.dataset, runner.seed)
        if isinstance(loop, IterBasedTrainLoop):
            loop.dataloader_iterator = type(loop.dataloader_iterator)(loader)
        draws_apart = hasattr(runner.model, 'keep_random_streams')
        if dist.get_world_size() > 1 and not draws_apart:
            # MMEngine seeds all processes alike.
            torch.manual_seed(torch.initial_seed() + dist.get_rank())
        if self._loaded is not None:
            at_epoch_end = self._loaded['at_epoch_end']
            self._go_on(runner, again=not at_epoch_end)

    def before_train_epoch(self, runner: Runner) -> None:
        """Tell the pipelines, also those in workers, which epoch it is."""
        self._epoch.fill_(runner.epoch)
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            # The same in each epoch, whether or not epochs came before.
            runner.train_dataloader.generator.manual_seed(runner.seed)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None
    ) -> None:
        """Go on after the batches that were passed over."""
        if self._loaded is not None:
            self._go_on(runner)

    def _go_on(self, runner: Runner, again: bool = False) -> None:
        assert self._loaded is not None
        own = self._loaded['ranks'][dist.get_rank()]
        set_process_state(runner.model, own)
        if not again:
            self._loaded = None
        if hasattr(runner.model, 'keep_random_streams'):
            runner.model.keep_random_streams()

    def _seed_pipelines(self, dataset: Any, seed: int) -> None:
        todo = [dataset]
        while todo:
            dataset = todo.pop()
            todo += getattr(dataset, 'datasets', [])
            if hasattr(dataset, 'dataset'):
                todo.append(dataset.dataset)
            pipeline = getattr(dataset, 'pipeline', None)
            if pipeline is not None and not isinstance(
                pipeline, SeededPipeline
            ):
                dataset.pipeline = SeededPipeline(pipeline, seed, self._epoch)

    # --- validation ---

    def before_val_epoch(self, runner: Runner) -> None:
        """Validate with streams that depend on the seed alone."""
        # A new best checkpoint is saved after it.
        in_epochs = isinstance(runner._train_loop, EpochBasedTrainLoop)
        self.gather(runner, at_epoch_end=in_epochs)
        assert self._states is not None
        own = self._states['ranks'][dist.get_rank()]
        self._training_streams = own['streams']
        set_random_seed(runner.seed, diff_rank_seed=True)

    def after_val_epoch(
        self, runner: Runner, metrics: Optional[dict[str, float]] = None
    ) -> None:
        """Give training its streams back."""
        if self._training_streams is not None:
            set_random_streams(self._training_streams)
            self._training_streams = None
        # A checkpoint saved from here on needs no other validation.
        runner.message_hub.update_info(_VALIDATED, runner.iter)


class _RevalidationHook(Hook):
    """Repeats the validation that was due after the checkpoint."""

    def before_train(self, runner: Runner) -> None:
        if not (runner._resume and _validation_is_due(runner)):
            return
        # As it is during a validation: the last that was trained.
        hub, loop = runner.message_hub, runner.train_loop
        hub.update_info('iter', loop.iter - 1)
        if isinstance(loop, EpochBasedTrainLoop):
            hub.update_info('epoch', loop.epoch - 1)
        runner.val_loop.run()


def _say(what: str) -> None:
    print_log(
        f'{what}. The run goes on with other draws than the interrupted one',
        logger='current',
        level=logging.WARNING,
    )


def _rebuilt(loader: DataLoader[Any], runner: Runner) -> DataLoader[Any]:
    """The loader with new workers and a sampler at its beginning."""
    cfg = runner.cfg.get('train_dataloader')
    if not isinstance(cfg, dict):  # the runner was given a loader
        return loader
    rebuilt: DataLoader[Any] = runner.build_dataloader(
        dict(cfg, dataset=loader.dataset),
        seed=runner.seed,
        diff_rank_seed=runner._randomness_cfg.get('diff_rank_seed', False),
    )
    return rebuilt


def _saves_now(hook: Hook, runner: Runner) -> bool:
    """Whether a checkpoint follows this iteration."""
    if not isinstance(hook, CheckpointHook) or hook.by_epoch:
        return False
    due: bool = hook.every_n_train_iters(
        runner, hook.interval, hook.save_begin
    ) or (hook.save_last and hook.is_last_train_iter(runner))
    return due


def _validation_is_due(runner: Runner) -> bool:
    """Whether what was trained last is followed by a validation."""
    loop = runner.train_loop
    if (
        runner.val_loop is None
        or loop.iter == 0
        or runner.message_hub.runtime_info.get(_VALIDATED) == loop.iter
    ):
        return False
    loop._decide_current_val_interval()
    if isinstance(loop, IterBasedTrainLoop):
        done, last = loop.iter, loop.max_iters
    else:
        done, last = loop.epoch, loop.max_epochs
        if loop.iter * last != done * loop.max_iters:  # in its middle
            return False
    due: bool = done >= max(1, loop.val_begin) and (
        done % loop.val_interval == 0 or done == last
    )
    return due
