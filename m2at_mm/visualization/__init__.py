"""Pictures of what a method does to images."""

from m2at_mm.visualization.training_images import (
    TrainingImages,
    draw_training_images,
)

__all__ = ['TrainingImages', 'draw_training_images']
