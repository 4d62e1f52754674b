"""What travels with a batch of images."""

from m2at_mm.structures.batch_labels import BatchLabels, stack_targets

__all__ = ['BatchLabels', 'stack_targets']
