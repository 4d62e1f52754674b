"""Datasets with a held-out validation split, and repeatable transforms."""

from .cifar import CIFAR10, CIFAR100
from .digits import Digits
from .seeded_pipeline import SeededPipeline
from .whole_batches import WholeBatches, whole_batch_collate

__all__ = [
    'CIFAR10',
    'CIFAR100',
    'Digits',
    'SeededPipeline',
    'WholeBatches',
    'whole_batch_collate',
]
