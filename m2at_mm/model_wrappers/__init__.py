"""The adversarial classifier, and its distributed wrapper."""

from .adversarial_classifier import AdversarialClassifier
from .distributed import AdversarialDistributedDataParallel, bare_model

__all__ = [
    'AdversarialClassifier',
    'AdversarialDistributedDataParallel',
    'bare_model',
]
