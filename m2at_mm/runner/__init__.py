"""Training loops, and what a training needs besides MMEngine's runner."""

from .train_loops import RepeatedBatchTrainLoop, ResumableEpochTrainLoop

__all__ = ['RepeatedBatchTrainLoop', 'ResumableEpochTrainLoop']
