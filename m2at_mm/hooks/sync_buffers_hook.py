"""Running statistics that are the same in all processes."""

from __future__ import annotations

from mmengine.dist import all_reduce_params
from mmengine.hooks import EMAHook
from mmengine.hooks import SyncBuffersHook as StockSyncBuffersHook
from mmengine.runner import EpochBasedTrainLoop, Runner

from m2at_mm.registry import HOOKS


@HOOKS.register_module()
class SyncBuffersHook(StockSyncBuffersHook):
    """Average the running statistics of all processes where they are used.

    Each process updates the statistics of its batch norms from its own
    images, and a checkpoint holds those of the first process. Without this
    hook the processes would validate networks that differ from each other and
    from the checkpoint.

    MMEngine's hook of this name averages them after an epoch, and before a
    validation inside one; this one also those of average weights (EMAHook).
    With one process it does nothing.

    Example:
        >>> default_hooks = dict(
        ...     sync_buffers=dict(type='m2at_mm.SyncBuffersHook'))
    """

    def before_train(self, runner: Runner) -> None:
        """A checkpoint of an epoch's end holds averages already."""
        self.called_in_train = isinstance(
            runner.train_loop, EpochBasedTrainLoop
        )

    def after_train_epoch(self, runner: Runner) -> None:
        """Average all running statistics."""
        super().after_train_epoch(runner)
        for hook in runner.hooks:
            if self.distributed and isinstance(hook, EMAHook):
                all_reduce_params(hook.ema_model.module.buffers(), op='mean')
