"""Both backbones against the formulas of the published networks."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from m2at_mm.backbones import PreActResNet_CIFAR, WideResNet_CIFAR

PREACT = [f'layer{k}' for k in (1, 2, 3, 4)], 'shortcut.0', 'bn'
WIDE = [f'block{k}.layer' for k in (1, 2, 3)], 'convShortcut', 'bn1'


def published(state: dict, x: Tensor, act: Any, names: Any) -> Tensor:
    """The features by the papers' formulas, from the weights alone."""

    def norm(x: Tensor, name: str) -> Tensor:
        parts = ('running_mean', 'running_var', 'weight', 'bias')
        mean, var, weight, bias = (state[f'{name}.{part}'] for part in parts)
        return act(F.batch_norm(x, mean, var, weight, bias))

    stages, shortcut, last_norm = names
    x = F.conv2d(x, state['conv1.weight'], padding=1)
    for name in dict.fromkeys(key.rpartition('.conv')[0] for key in state):
        stage, _, number = name.rpartition('.')
        if stage not in stages:
            continue
        stride = 2 if stage != stages[0] and number == '0' else 1
        out, identity = norm(x, f'{name}.bn1'), x
        if f'{name}.{shortcut}.weight' in state:
            weight = state[f'{name}.{shortcut}.weight']
            identity = F.conv2d(out, weight, stride=stride)
        layers = [k for k in (1, 2, 3) if f'{name}.conv{k}.weight' in state]
        for k in layers:
            out = norm(out, f'{name}.bn{k}') if k > 1 else out
            weight = state[f'{name}.conv{k}.weight']
            # Of two convolutions the first has the stride, of three the next.
            step = stride if k == layers[-2] else 1
            out = F.conv2d(out, weight, None, step, weight.shape[-1] // 2)
        x = out + identity
    return norm(x, last_norm)


NETWORKS = [
    (partial(PreActResNet_CIFAR, 18, 8), PREACT, 64, 8),
    (partial(PreActResNet_CIFAR, 50, 4), PREACT, 128, 8),
    (partial(WideResNet_CIFAR, 16, 1), WIDE, 64, 4),
    (partial(WideResNet_CIFAR, 10, 2, drop_rate=0.3), WIDE, 128, 4),
]


@pytest.mark.parametrize('size', [32, 64])
@pytest.mark.parametrize('act', ['relu', 'silu'])
@pytest.mark.parametrize(
    ('net', 'names', 'channels', 'factor'),
    NETWORKS,
    ids=['preact-18', 'preact-50', 'wide', 'dropout'],
)
def test_forward_is_that_of_the_published_network(
    net: Any, names: Any, channels: int, factor: int, act: str, size: int
) -> None:
    torch.manual_seed(0)
    net = net(act_cfg=dict(type='SiLU') if act == 'silu' else None)
    net.init_weights()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 1.5)
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        (features,) = net.eval()(x)
        expected = published(net.state_dict(), x, getattr(F, act), names)
    torch.testing.assert_close(features, expected)
    assert features.shape == (2, channels, size // factor, size // factor)
    assert act == 'silu' or (features >= 0).all()


SIZES = [
    (PreActResNet_CIFAR, 18, 64, (512, 11172170)),
    (PreActResNet_CIFAR, 34, 64, (512, 21280330)),
    (PreActResNet_CIFAR, 50, 64, (2048, 23513162)),
    (WideResNet_CIFAR, 28, 10, (640, 36479194)),
    (WideResNet_CIFAR, 34, 10, (640, 46160474)),
    (WideResNet_CIFAR, 34, 20, (1280, 184531674)),
]


@pytest.mark.parametrize(('kind', 'depth', 'width', 'size'), SIZES)
def test_published_size(kind: Any, depth: int, width: int, size: Any) -> None:
    """With the layer to 10 classes; the widths 64 and 10 are the default."""
    channels, parameters = size
    cfg = dict(type=f'm2at_mm.{kind.__name__}', depth=depth)
    with torch.device('meta'):
        net = kind(depth, width) if width == 20 else MODELS.build(cfg)
    assert type(net) is kind
    own = sum(parameter.numel() for parameter in net.parameters())
    assert own + 10 * channels + 10 == parameters


def test_what_is_not_trained() -> None:
    net = PreActResNet_CIFAR(18, base_channels=4, frozen_stages=1)
    frozen = [n for n, p in net.named_parameters() if not p.requires_grad]
    assert frozen and all(n.startswith(('conv1', 'layer1')) for n in frozen)
    net.train()
    assert not net.layer1[0].bn1.training and net.layer2[0].bn1.training
    net = WideResNet_CIFAR(10, 1, frozen_stages=0)
    frozen = [n for n, p in net.named_parameters() if not p.requires_grad]
    assert frozen == ['conv1.weight']
    net = PreActResNet_CIFAR(18, base_channels=4, norm_eval=True).train()
    assert not net.bn.training and net.training
