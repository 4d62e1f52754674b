"""Training methods: each turns an attack into a loss."""

from .base import (
    BoundAttack,
    Method,
    Model,
    TrainingBatch,
    one_hot,
    smooth_labels,
)
from .baselines import IAT, MART, PGDAT, TRADES, AVmixup, FreeAT, Standard
from .m2at import (
    M2AT,
    MixedBatch,
    MixRatios,
    draw_masks,
    mask_and_mix,
    patch_mask,
    pixel_mask,
    rectangle_mask,
)

__all__ = [
    'IAT',
    'M2AT',
    'MART',
    'PGDAT',
    'TRADES',
    'AVmixup',
    'BoundAttack',
    'FreeAT',
    'Method',
    'MixRatios',
    'MixedBatch',
    'Model',
    'Standard',
    'TrainingBatch',
    'draw_masks',
    'mask_and_mix',
    'one_hot',
    'patch_mask',
    'pixel_mask',
    'rectangle_mask',
    'smooth_labels',
]
