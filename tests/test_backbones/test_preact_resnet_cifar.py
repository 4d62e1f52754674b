from __future__ import annotations

import pytest
import torch

from m2at_mm.backbones import PreActResNet_CIFAR


@pytest.mark.parametrize(
    ('depth', 'channels', 'parameters'),
    [(18, 512, 11172170), (34, 512, 21280330), (50, 2048, 23513162)],
)
def test_published_size(depth: int, channels: int, parameters: int) -> None:
    """11.17 M parameters for depth 18, with the layer to 10 classes."""
    with torch.device('meta'):
        net = PreActResNet_CIFAR(depth)
    own = sum(parameter.numel() for parameter in net.parameters())
    assert own + 10 * channels + 10 == parameters


@pytest.mark.parametrize(('depth', 'channels'), [(18, 32), (50, 128)])
@pytest.mark.parametrize('size', [32, 64])
def test_feature_map(depth: int, channels: int, size: int) -> None:
    with torch.no_grad():
        net = PreActResNet_CIFAR(depth, base_channels=4).eval()
        (features,) = net(torch.rand(1, 3, size, size))
    assert features.shape == (1, channels, size // 8, size // 8)
    assert (features >= 0).all()
