"""Running statistics that are the same in all processes."""

from typing import Any

from mmengine.dist import all_reduce_params
from mmengine.hooks import EMAHook
from mmengine.hooks import SyncBuffersHook as StockSyncBuffersHook
from mmengine.runner import Runner

from m2at_mm.registry import HOOKS
from m2at_mm.runner.train_loops import checkpoint_follows, counts_epochs


@HOOKS.register_module()
class SyncBuffersHook(StockSyncBuffersHook):
    """Average the running statistics of all processes where they are used.

    Each process updates those of its batch norms from its own images, and a
    checkpoint holds those of the first process. MMEngine's hook of this name
    averages them after an epoch, and before a validation inside one; this one
    also before a checkpoint by iteration, and also those of average weights
    (EMAHook). With one process it does nothing.
    """

    def before_train(self, runner: Runner) -> None:
        """A checkpoint of an epoch's end holds averages already."""
        self.called_in_train = counts_epochs(runner)

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        # Inside an epoch that goes on each process resumes with its own.
        if not counts_epochs(runner) and checkpoint_follows(runner):
            self._average(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        if not self.called_in_train:
            self._average(runner)
        self.called_in_train = False

    def after_train_epoch(self, runner: Runner) -> None:
        self._average(runner)
        self.called_in_train = True

    def _average(self, runner: Runner) -> None:
        if not self.distributed:
            return
        all_reduce_params(runner.model.buffers(), op='mean')
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                all_reduce_params(hook.ema_model.module.buffers(), op='mean')
