"""Datasets with a held-out validation split."""

from .cifar import CIFAR10, CIFAR100
from .digits import Digits

__all__ = ['CIFAR10', 'CIFAR100', 'Digits']
