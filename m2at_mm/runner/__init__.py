"""Training loops, and what a training needs besides MMEngine's runner."""

from .recipe_runner import RecipeRunner
from .train_loops import RepeatedBatchTrainLoop, ResumableEpochTrainLoop

__all__ = ['RecipeRunner', 'RepeatedBatchTrainLoop', 'ResumableEpochTrainLoop']
