"""The networks of the literature on adversarial training, for CIFAR."""

from m2at_mm.backbones.pre_activation import (
    PreActResNet_CIFAR,
    WideResNet_CIFAR,
)

__all__ = ['PreActResNet_CIFAR', 'WideResNet_CIFAR']
