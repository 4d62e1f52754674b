"""Training loops."""

from m2at_mm.runner.repeated_batch_train_loop import RepeatedBatchTrainLoop
from m2at_mm.runner.resumable_epoch_train_loop import ResumableEpochTrainLoop

__all__ = ['RepeatedBatchTrainLoop', 'ResumableEpochTrainLoop']
