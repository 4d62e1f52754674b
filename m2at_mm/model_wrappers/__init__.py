"""The adversarial classifier, and its distributed wrapper."""

from m2at_mm.model_wrappers.adversarial_classifier import (
    AdversarialClassifier,
)
from m2at_mm.model_wrappers.distributed import (
    AdversarialDistributedDataParallel,
)

__all__ = ['AdversarialClassifier', 'AdversarialDistributedDataParallel']
