"""Datasets with a held-out validation split, and of generated images."""

from .cifar import CIFAR10, CIFAR100
from .digits import Digits
from .fixed_share import FixedShareBatchSampler
from .generated import GeneratedImages, OriginalAndGenerated
from .seeded_pipeline import SeededPipeline
from .whole_batches import WholeBatches, whole_batch_collate

__all__ = [
    'CIFAR10',
    'CIFAR100',
    'Digits',
    'FixedShareBatchSampler',
    'GeneratedImages',
    'OriginalAndGenerated',
    'SeededPipeline',
    'WholeBatches',
    'whole_batch_collate',
]
