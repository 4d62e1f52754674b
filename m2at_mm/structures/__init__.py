"""What travels with a batch of images."""

from m2at_mm.structures.batch_labels import BatchLabels

__all__ = ['BatchLabels']
