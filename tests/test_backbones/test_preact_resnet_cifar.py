from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from backbone_support import batch_norm, draw_statistics
from mmpretrain.registry import MODELS
from torch import Tensor

from m2at_mm.backbones import PreActResNet_CIFAR


@pytest.mark.parametrize(
    ('depth', 'channels', 'parameters'),
    [(18, 512, 11172170), (34, 512, 21280330), (50, 2048, 23513162)],
)
@pytest.mark.parametrize('size', [32, 64])
def test_published_size(
    depth: int, channels: int, parameters: int, size: int
) -> None:
    """11.17 M parameters for depth 18, with the layer to 10 classes."""
    with torch.no_grad():
        net = PreActResNet_CIFAR(depth).eval()
        (features,) = net(torch.rand(1, 3, size, size))
    assert features.shape == (1, channels, size // 8, size // 8)
    assert (features >= 0).all()
    own = sum(parameter.numel() for parameter in net.parameters())
    assert own + 10 * channels + 10 == parameters


def _published(state: dict[str, Tensor], x: Tensor, act: Any) -> Tensor:
    """The network of arXiv 2002.11569 as its formulas, from its weights."""
    bn = partial(batch_norm, state)

    x = F.conv2d(x, state['conv1.weight'], padding=1)
    for stage in range(1, 5):
        for block in range(2):
            name = f'layer{stage}.{block}'
            stride = 2 if stage > 1 and block == 0 else 1
            out = act(bn(x, f'{name}.bn1'))
            identity = x
            if f'{name}.shortcut.0.weight' in state:
                identity = F.conv2d(
                    out, state[f'{name}.shortcut.0.weight'], stride=stride
                )
            out = F.conv2d(
                out, state[f'{name}.conv1.weight'], stride=stride, padding=1
            )
            out = act(bn(out, f'{name}.bn2'))
            out = F.conv2d(out, state[f'{name}.conv2.weight'], padding=1)
            x = out + identity
    return act(bn(x, 'bn'))


@pytest.mark.parametrize(
    ('act_cfg', 'act'),
    [(None, F.relu), (dict(type='SiLU'), F.silu)],
    ids=['relu', 'silu'],
)
def test_forward_is_that_of_the_published_network(
    act_cfg: Any, act: Any
) -> None:
    torch.manual_seed(0)
    net = PreActResNet_CIFAR(18, base_channels=8, act_cfg=act_cfg)
    net.init_weights()
    draw_statistics(net)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        (features,) = net.eval()(x)
        expected = _published(net.state_dict(), x, act)
    torch.testing.assert_close(features, expected)


def test_frozen_stages() -> None:
    net = PreActResNet_CIFAR(18, base_channels=4, frozen_stages=1)
    frozen = [n for n, p in net.named_parameters() if not p.requires_grad]
    assert frozen and all(n.startswith(('conv1', 'layer1')) for n in frozen)
    net.train()
    assert not net.layer1[0].bn1.training and net.layer2[0].bn1.training


def test_norm_eval() -> None:
    net = PreActResNet_CIFAR(18, base_channels=4, norm_eval=True).train()
    assert not net.bn.training and net.training


def test_built_from_a_config() -> None:
    net = MODELS.build(dict(type='m2at_mm.PreActResNet_CIFAR', depth=34))
    assert isinstance(net, PreActResNet_CIFAR)


@pytest.mark.parametrize('settings', [dict(depth=20), dict(frozen_stages=5)])
def test_wrong_settings(settings: dict[str, int]) -> None:
    [(name, value)] = settings.items()
    with pytest.raises(ValueError, match=f'{name}={value}'):
        PreActResNet_CIFAR(**settings)
