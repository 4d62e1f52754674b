"""Pictures of what attacks and methods do to images."""

from m2at_mm.visualization.attack_steps import (
    AttackSteps,
    draw_attack_steps,
    draw_step_frames,
)
from m2at_mm.visualization.mixing import (
    MaskKinds,
    MethodOptions,
    draw_mask_kinds,
    draw_method_options,
)
from m2at_mm.visualization.panels import figure_pixels, save_animation
from m2at_mm.visualization.training_images import (
    TrainingImages,
    draw_training_images,
)

__all__ = [
    'AttackSteps',
    'MaskKinds',
    'MethodOptions',
    'TrainingImages',
    'draw_attack_steps',
    'draw_mask_kinds',
    'draw_method_options',
    'draw_step_frames',
    'draw_training_images',
    'figure_pixels',
    'save_animation',
]
