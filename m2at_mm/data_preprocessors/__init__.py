"""Data preprocessors."""

from m2at_mm.data_preprocessors.adversarial import AdversarialDataPreprocessor

__all__ = ['AdversarialDataPreprocessor']
