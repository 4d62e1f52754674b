"""The networks of the literature on adversarial training, for CIFAR."""

from m2at_mm.backbones.preact_resnet_cifar import PreActResNet_CIFAR
from m2at_mm.backbones.wide_resnet_cifar import WideResNet_CIFAR

__all__ = ['PreActResNet_CIFAR', 'WideResNet_CIFAR']
