from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from backbone_support import batch_norm, draw_statistics
from mmpretrain.registry import MODELS
from torch import Tensor

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


def _published(state: dict[str, Tensor], x: Tensor, act: Any) -> Tensor:
    """The network of arXiv 1605.07146 as its formulas, from its weights."""
    bn = partial(batch_norm, state)

    x = F.conv2d(x, state['conv1.weight'], padding=1)
    for stage in range(1, 4):
        for block in range(2):
            name = f'block{stage}.layer.{block}'
            stride = 2 if stage > 1 and block == 0 else 1
            out = act(bn(x, f'{name}.bn1'))
            identity = x
            if f'{name}.convShortcut.weight' in state:
                identity = F.conv2d(
                    out, state[f'{name}.convShortcut.weight'], stride=stride
                )
            out = F.conv2d(
                out, state[f'{name}.conv1.weight'], stride=stride, padding=1
            )
            out = act(bn(out, f'{name}.bn2'))
            x = identity + F.conv2d(
                out, state[f'{name}.conv2.weight'], padding=1
            )
    return act(bn(x, 'bn1'))


@pytest.mark.parametrize(
    ('act_cfg', 'act'),
    [(None, F.relu), (dict(type='SiLU'), F.silu)],
    ids=['relu', 'silu'],
)
def test_forward_is_that_of_the_published_network(
    act_cfg: Any, act: Any
) -> None:
    torch.manual_seed(0)
    net = WideResNet_CIFAR(16, 1, act_cfg=act_cfg)
    net.init_weights()
    draw_statistics(net)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        (features,) = net.eval()(x)
        expected = _published(net.state_dict(), x, act)
    torch.testing.assert_close(features, expected)


def test_frozen_stages() -> None:
    net = WideResNet_CIFAR(10, 1, frozen_stages=0)
    frozen = [n for n, p in net.named_parameters() if not p.requires_grad]
    assert frozen == ['conv1.weight']


def test_built_from_a_config() -> None:
    net = MODELS.build(
        dict(type='m2at_mm.WideResNet_CIFAR', depth=10, widen_factor=1)
    )
    assert isinstance(net, WideResNet_CIFAR)


@pytest.mark.parametrize(
    'settings',
    [dict(depth=30), dict(widen_factor=0), dict(drop_rate=1.0)],
    ids=str,
)
def test_wrong_settings(settings: dict[str, float]) -> None:
    [(name, value)] = settings.items()
    with pytest.raises(ValueError, match=f'{name}={value}'):
        WideResNet_CIFAR(**settings)
