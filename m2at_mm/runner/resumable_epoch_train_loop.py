"""Epochs that go on in their middle."""

from __future__ import annotations

from mmengine.runner import EpochBasedTrainLoop

from m2at_mm.registry import LOOPS


@LOOPS.register_module()
class ResumableEpochTrainLoop(EpochBasedTrainLoop):
    """MMEngine's epochs, resumed at the batch after the checkpoint.

    MMEngine begins an epoch anew when it resumes from a checkpoint that was
    saved by iteration (``default_hooks.checkpoint.by_epoch=False``). This loop
    passes over the batches that were trained on. With
    :class:`m2at_mm.RNGStateHook` the rest of the epoch is that of a run that
    was never interrupted.

    Args:
        *args (Any): See :class:`mmengine.runner.EpochBasedTrainLoop`.
        **kwargs (Any): The same.

    Example:
        >>> train_cfg = dict(
        ...     type='m2at_mm.ResumableEpochTrainLoop', max_epochs=200)
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
