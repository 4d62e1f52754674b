"""Data preprocessors."""

from m2at_mm.data_preprocessors.adversarial import AdversarialDataPreprocessor
from m2at_mm.data_preprocessors.augment import RandomCropAndFlip, crop_and_flip

__all__ = ['AdversarialDataPreprocessor', 'RandomCropAndFlip', 'crop_and_flip']
