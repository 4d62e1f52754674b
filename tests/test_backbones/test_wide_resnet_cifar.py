from __future__ import annotations

import pytest
import torch

from m2at_mm.backbones import WideResNet_CIFAR


@pytest.mark.parametrize(
    ('depth', 'widen_factor', 'parameters'),
    [(28, 10, 36479194), (34, 10, 46160474), (34, 20, 184531674)],
)
def test_published_size(
    depth: int, widen_factor: int, parameters: int
) -> None:
    """46.16 M parameters for WRN-34-10, with the layer to 10 classes."""
    with torch.device('meta'):
        net = WideResNet_CIFAR(depth, widen_factor)
    own = sum(parameter.numel() for parameter in net.parameters())
    assert own + 10 * 64 * widen_factor + 10 == parameters


@pytest.mark.parametrize('size', [32, 64])
def test_feature_map(size: int) -> None:
    with torch.no_grad():
        net = WideResNet_CIFAR(10, 2, drop_rate=0.3).eval()
        (features,) = net(torch.rand(1, 3, size, size))
    assert features.shape == (1, 128, size // 4, size // 4)
