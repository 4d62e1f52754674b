"""Training loops, and what a training needs besides MMEngine's runner."""

from m2at_mm.runner.recipe_runner import RecipeRunner
from m2at_mm.runner.train_loops import (
    RepeatedBatchTrainLoop,
    ResumableEpochTrainLoop,
)

__all__ = ['RecipeRunner', 'RepeatedBatchTrainLoop', 'ResumableEpochTrainLoop']
