"""The adversarial classifier, and its distributed wrapper."""

from m2at_mm.model_wrappers.adversarial_classifier import AdversarialClassifier
from m2at_mm.model_wrappers.distributed import (
    AdversarialDistributedDataParallel,
    bare_model,
)

__all__ = [
    'AdversarialClassifier',
    'AdversarialDistributedDataParallel',
    'bare_model',
]
