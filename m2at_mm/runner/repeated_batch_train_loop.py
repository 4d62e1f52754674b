"""Epochs that train on each batch several times in a row."""

from __future__ import annotations

from typing import Any

from m2at_mm.checks import check_count
from m2at_mm.model_wrappers.distributed import bare_model
from m2at_mm.registry import LOOPS
from m2at_mm.runner.resumable_epoch_train_loop import ResumableEpochTrainLoop


@LOOPS.register_module()
class RepeatedBatchTrainLoop(ResumableEpochTrainLoop):
    """Trains on each batch several times before the next is loaded.

    Free adversarial training needs it; see :class:`m2at_mm.FreeAT`. An epoch
    has ``repeats`` times as many iterations as there are batches, so the
    authors divide the number of epochs by ``repeats``. Schedulers by epoch
    and by iteration count as usual; those converted from epochs to
    iterations (``convert_to_iter_based``) count batches.

    Args:
        *args: See :class:`mmengine.runner.EpochBasedTrainLoop`.
        repeats (int): Times that a batch is trained on, at least 1. Defaults
            to 8, the m of arXiv 1904.12843 for CIFAR-10.
        **kwargs: See :class:`mmengine.runner.EpochBasedTrainLoop`.

    Raises:
        ValueError: ``repeats`` is not a whole number of at least 1, or the
            preprocessor would crop each repetition anew.

    Example:
        >>> train_cfg = dict(
        ...     type='m2at_mm.RepeatedBatchTrainLoop', repeats=8,
        ...     max_epochs=25)
    """

    def __init__(self, *args: Any, repeats: int = 8, **kwargs: Any) -> None:
        check_count('repeats', repeats)
        super().__init__(*args, **kwargs)
        preprocessor = getattr(
            bare_model(self.runner.model), 'data_preprocessor', None
        )
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
        """Train on a batch ``repeats`` times.

        Args:
            idx (int): Number of the batch in its epoch.
            data_batch: What the dataloader gave.
        """
        # Some were done before the checkpoint that the run goes on from.
        batches = self._epoch * len(self.dataloader) + idx
        done = self._iter - batches * self.repeats
        for repeat in range(done, self.repeats):
            super().run_iter(idx * self.repeats + repeat, data_batch)
