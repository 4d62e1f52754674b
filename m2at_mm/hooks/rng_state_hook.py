"""A resumed run is the uninterrupted one."""

from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import EarlyStoppingHook, EMAHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner, set_random_seed
from torch import nn

from m2at_mm.registry import HOOKS
from m2at_mm.runner import process_state, train_loops
from m2at_mm.runner.process_state import restored

_KEY = 'rng_state'
_HOOKS = 'hook_states'
_VALIDATED = 'validated_iter'


@HOOKS.register_module()
class RNGStateHook(Hook):
    """Save all random streams with a checkpoint, and go on with them.

    MMEngine restores the seed when it resumes, not the streams. With this
    hook a run that was interrupted equals the uninterrupted one, on the CPU
    bit for bit. For that it

    - saves and restores Python's, NumPy's and PyTorch's streams of every
      process, its running statistics, gradients that are being accumulated,
      the state of a method like :class:`m2at_mm.FreeAT`, of MMEngine's
      EarlyStoppingHook, and of each hook with ``state_dict()`` and
      ``load_state_dict()``; others are named in a warning;
    - gives the samplers of all processes the seed of the interrupted run,
      seeds augmentations by epoch and image
      (:class:`m2at_mm.datasets.SeededPipeline`), and lets each process draw
      differently, also without ``randomness.diff_rank_seed``;
    - validates with streams of their own, and repeats a validation that was
      due after the checkpoint.

    From a checkpoint in the middle of an epoch, MMEngine begins the epoch
    anew; :class:`m2at_mm.ResumableEpochTrainLoop` goes on.

    Raises:
        ValueError: The sampler does not fit the loop or the processes.
    """

    # Before the CheckpointHook, after the others.
    priority = 'LOW'

    def __init__(self) -> None:
        self._states: dict[str, Any] = {}  # for the next checkpoint
        self._loaded: dict[str, Any] | None = None
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._began = False

    def before_run(self, runner: Runner) -> None:
        for hook in list(runner.hooks):
            if isinstance(hook, EarlyStoppingHook):
                # Before a new best checkpoint is saved, which holds its state.
                runner.hooks.remove(hook)
                runner.register_hook(hook, priority='LOW')
        runner.register_hook(_RevalidationHook(), priority='LOWEST')

    # --- saving ---

    def after_train_epoch(self, runner: Runner) -> None:
        if self._loaded is not None:  # the epoch's last batch was done, too
            self._go_on(runner)
            runner.message_hub.update_info('iter', runner.iter - 1)
        self.gather(runner, at_epoch_end=True)

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        if train_loops.checkpoint_follows(runner):
            self.gather(runner, at_epoch_end=False)

    def before_save_checkpoint(self, runner: Runner, checkpoint: Any) -> None:
        if self._states:
            checkpoint[_KEY] = self._states
        checkpoint[_HOOKS] = process_state.hook_states(runner)

    def gather(self, runner: Runner, at_epoch_end: bool) -> None:
        """Collect the streams for the next checkpoint; all processes must."""
        own = process_state.process_state(runner.model, *_averages(runner))
        ranks = dist.all_gather_object(own)
        self._states = dict(ranks=ranks, at_epoch_end=at_epoch_end)

    # --- resuming ---

    def after_load_checkpoint(self, runner: Runner, checkpoint: Any) -> None:
        # In training, a guard goes back to earlier weights and nothing else.
        if not runner._resume or self._began:
            return
        states = restored(checkpoint.get(_HOOKS, {}))
        process_state.set_hook_states(runner, states)
        loaded = checkpoint.get(_KEY)
        problem = _why_not(loaded, runner)
        if problem is None:
            self._loaded = loaded
        else:
            runner.logger.warning(
                f'{problem}. The run goes on with other draws than the '
                'interrupted one'
            )

    def before_train(self, runner: Runner) -> None:
        train_loops.check_sampler(runner)
        self._began = True
        forgotten = process_state.hooks_that_forget(runner)
        if forgotten:
            runner.logger.warning(
                f'a resumed run begins anew with what {", ".join(forgotten)} '
                'may have noted: give such hooks state_dict() and '
                'load_state_dict()'
            )
        train_loops.make_repeatable(runner, self._epoch)
        # MMEngine seeds all processes alike by default.
        has_own_way = hasattr(runner.model, 'keep_random_streams')
        differ = train_loops.draws_differ(runner)
        if dist.get_world_size() > 1 and differ == has_own_way:
            if differ:
                runner.model.keep_random_streams()
            else:
                torch.manual_seed(torch.initial_seed() + dist.get_rank())
        loaded = self._loaded
        if loaded is not None:
            self._go_on(runner)
            if not loaded['at_epoch_end']:
                # Once more, after the batches that are skipped.
                self._loaded = loaded

    def before_train_epoch(self, runner: Runner) -> None:
        """Tell the pipelines, also those in workers, which epoch it is."""
        self._epoch.fill_(runner.epoch)
        loader, seed = runner.train_dataloader, train_loops.common_seed(runner)
        # A hook like mmpretrain's SwitchRecipeHook may have changed them.
        train_loops.seed_pipelines(loader.dataset, seed, self._epoch)
        if train_loops.counts_epochs(runner):
            train_loops.seed_epoch(loader, seed, runner.epoch)

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        if self._loaded is not None:
            self._go_on(runner)

    def _go_on(self, runner: Runner) -> None:
        assert self._loaded is not None
        own, self._loaded = self._loaded['ranks'][dist.get_rank()], None
        averages = _averages(runner)
        process_state.set_process_state(runner.model, own, *averages)
        if hasattr(runner.model, 'keep_random_streams'):
            runner.model.keep_random_streams()

    # --- validation ---

    def before_val_epoch(self, runner: Runner) -> None:
        # A new best checkpoint is saved after it.
        in_epochs = isinstance(runner._train_loop, EpochBasedTrainLoop)
        # An EMAHook has swapped its averages in, of which each process would
        # keep the running statistics for its own.
        averaging = [h for h in runner.hooks if isinstance(h, EMAHook)]
        for hook in averaging:
            hook._swap_ema_parameters()
        self.gather(runner, at_epoch_end=in_epochs)
        for hook in averaging:
            hook._swap_ema_parameters()
        set_random_seed(train_loops.common_seed(runner), diff_rank_seed=True)

    def after_val_epoch(self, runner: Runner, **_: Any) -> None:
        own = self._states['ranks'][dist.get_rank()]
        process_state.set_random_streams(own['streams'])
        # A checkpoint saved from here on needs no other validation.
        runner.message_hub.update_info(_VALIDATED, runner.iter)


def _averages(runner: Runner) -> list[nn.Module]:
    hooks = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
    return [hook.ema_model.module for hook in hooks]


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


def _why_not(loaded: dict[str, Any] | None, runner: Runner) -> str | None:
    if loaded is None:
        return 'the checkpoint holds no random streams'
    saved, here = len(loaded['ranks']), dist.get_world_size()
    if saved != here:
        return f'the checkpoint is from {saved} processes, this run has {here}'
    in_middle = not loaded['at_epoch_end']
    if in_middle and type(runner.train_loop) is EpochBasedTrainLoop:
        return (
            'the checkpoint is from the middle of an epoch, which begins '
            'anew: train_cfg.type=m2at_mm.ResumableEpochTrainLoop would go on '
            'in it'
        )
    return None


def _validation_is_due(runner: Runner) -> bool:
    loop = runner.train_loop
    validated = runner.message_hub.runtime_info.get(_VALIDATED)
    if loop.iter == 0 or validated == loop.iter:
        return False
    if not train_loops.counts_epochs(runner):
        return train_loops.validation_follows(runner, loop.iter)
    whole_epochs = loop.iter * loop.max_epochs == loop.epoch * loop.max_iters
    return whole_epochs and train_loops.validation_follows(runner, loop.epoch)
