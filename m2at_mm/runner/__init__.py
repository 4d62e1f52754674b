"""Training loops."""

from m2at_mm.runner.repeated_batch_train_loop import RepeatedBatchTrainLoop

__all__ = ['RepeatedBatchTrainLoop']
