"""Import against the network that the weights were trained with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyautoattack
import pytest
import torch
from mmpretrain.registry import MODELS
from pyautoattack.examples.resnet import ResNet18, ResNet50
from torch import Tensor, nn

from m2at_mm.backbones import PreActResNet_CIFAR, WideResNet_CIFAR
from m2at_mm.exchange import Imported, PlainClassifier, import_checkpoint

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]


class Normalised(nn.Module):
    """A network behind a normalisation layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.register_buffer('mu', torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer('sigma', torch.tensor(STD).view(1, 3, 1, 1))
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model((images - self.mu) / self.sigma)


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('mean', torch.tensor(MEAN))
        self.register_buffer('std', torch.tensor(STD))

    def forward(self, images: Tensor) -> Tensor:
        shape = (1, 3, 1, 1)
        return (images - self.mean.view(shape)) / self.std.view(shape)


def _logits(imported: Imported, images: Tensor) -> Tensor:
    classifier = dict(imported.classifier, _scope_='mmpretrain')
    model = MODELS.build(classifier).eval()
    model.load_state_dict(imported.state_dict)
    if imported.mean is not None and imported.std is not None:
        shape = (1, 3, 1, 1)
        mean, std = (
            torch.tensor(value).view(shape) / 255
            for value in (imported.mean, imported.std)
        )
        images = (images - mean) / std
    with torch.no_grad():
        return model(images, mode='tensor')


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    'bare': lambda net: net,
    'data parallel': nn.DataParallel,
    'normalised': Normalised,
    'normalised inside data parallel': lambda n: nn.DataParallel(
        Normalised(n)
    ),
    'sequential': lambda net: nn.Sequential(_Layer(), net),
}
CONTAINERS: dict[str, Callable[[dict], Any]] = {
    'alone': lambda weights: weights,
    'state_dict': lambda weights: dict(state_dict=weights, epoch=3),
    'net': lambda weights: dict(net=weights, acc=91.0),
}


@pytest.mark.parametrize('wrapper', WRAPPERS)
@pytest.mark.parametrize('container', CONTAINERS)
def test_logits_are_those_of_the_source(
    wrapper: str, container: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = ResNet18()
    model = WRAPPERS[wrapper](net).eval()
    path = tmp_path / 'source.pt'
    torch.save(CONTAINERS[container](model.state_dict()), path)
    imported = import_checkpoint(path)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)
    torch.testing.assert_close(
        _logits(imported, images), expected, atol=1e-4, rtol=0
    )
    inside = 'normalised' in wrapper or wrapper == 'sequential'
    if inside:
        assert imported.mean == pytest.approx([255 * x for x in MEAN])
        assert imported.std == pytest.approx([255 * x for x in STD])
    else:
        assert imported.mean is None and imported.std is None


def test_bottleneck_depth_is_found(tmp_path: Path) -> None:
    net = ResNet50().eval()
    path = tmp_path / 'source.pt'
    torch.save(net.state_dict(), path)
    imported = import_checkpoint(path)
    assert imported.classifier['backbone']['depth'] == 50
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected = net(images)
    torch.testing.assert_close(
        _logits(imported, images), expected, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    ('net', 'settings'),
    [
        (
            lambda: PreActResNet_CIFAR(18, base_channels=8),
            dict(depth=18, base_channels=8),
        ),
        (lambda: PreActResNet_CIFAR(50, base_channels=4), dict(depth=50)),
        (
            lambda: WideResNet_CIFAR(16, 2),
            dict(depth=16, widen_factor=2),
        ),
    ],
    ids=['preact18', 'preact50', 'wide'],
)
def test_pre_activation_and_wide_nets(
    net: Callable, settings: dict[str, int], tmp_path: Path
) -> None:
    """Their names are the published ones; see the backbones' tests."""
    torch.manual_seed(0)
    backbone = net().eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        (features,) = backbone(images)
    layer = nn.Linear(features.shape[1], 10)
    weights = {f'module.{k}': v for k, v in backbone.state_dict().items()}
    name = 'linear' if 'preact' in type(backbone).__name__.lower() else 'fc'
    for part, value in layer.state_dict().items():
        weights[f'module.{name}.{part}'] = value
    weights['module.sub_block1.layer.0.bn1.weight'] = torch.ones(3)
    torch.save(dict(state_dict=weights), tmp_path / 'source.pt')
    imported = import_checkpoint(tmp_path / 'source.pt')
    for key, value in settings.items():
        assert imported.classifier['backbone'][key] == value
    with torch.no_grad():
        expected = layer(features.mean((2, 3)))
    torch.testing.assert_close(
        _logits(imported, images), expected, atol=1e-4, rtol=0
    )


def test_shipped_weights_on_real_images(
    cifar10_images: Callable, undefended_model: nn.Module
) -> None:
    folder = Path(pyautoattack.__file__).parent / 'examples'
    imported = import_checkpoint(folder / 'model_test.pt')
    assert imported.mean is None and imported.num_classes == 10
    images, _ = cifar10_images(8)
    source = ResNet18().eval()
    source.load_state_dict(
        torch.load(
            folder / 'model_test.pt', map_location='cpu', weights_only=True
        )
    )
    with torch.no_grad():
        expected = source(images)
    torch.testing.assert_close(
        _logits(imported, images), expected, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize('channels', [1, 3, 4])
@pytest.mark.parametrize('dtype', [torch.float16, torch.float64])
@pytest.mark.parametrize('net', [PreActResNet_CIFAR, WideResNet_CIFAR])
def test_other_images_and_precisions(
    net: Callable[..., nn.Module],
    dtype: torch.dtype,
    channels: int,
    tmp_path: Path,
) -> None:
    """Images that are not square, of any number of channels."""
    torch.manual_seed(0)
    depth = 18 if net is PreActResNet_CIFAR else 10
    width = dict(base_channels=4) if depth == 18 else dict(widen_factor=1)
    backbone = net(depth, in_channels=channels, **width).eval()
    images = torch.rand(2, channels, 32, 48)
    mean = torch.linspace(0.2, 0.5, channels)
    with torch.no_grad():
        normalised = (images - mean.view(-1, 1, 1)) / 0.25
        features = backbone(normalised)[-1].mean((2, 3))
    layer = nn.Linear(features.shape[1], 10)
    weights = {f'fc.{k}': v for k, v in layer.state_dict().items()}
    weights.update(backbone.state_dict())
    weights.update(mean=mean, std=torch.tensor([0.25]))
    torch.save({k: v.to(dtype) for k, v in weights.items()}, tmp_path / 'x.pt')
    imported = import_checkpoint(tmp_path / 'x.pt')
    assert imported.num_channels == channels
    assert imported.mean is not None and imported.std is not None
    plain = PlainClassifier(
        MODELS.build(dict(imported.classifier, _scope_='mmpretrain')),
        torch.tensor(imported.mean).view(-1, 1, 1),
        torch.tensor(imported.std).view(-1, 1, 1),
    )
    plain.model.load_state_dict(imported.state_dict)
    tolerance = 1e-4 if dtype == torch.float64 else 0.02
    with torch.no_grad():
        torch.testing.assert_close(
            plain(images), layer(features), atol=tolerance, rtol=0
        )


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'conv.weight': torch.zeros(1)}, 'layout of the keys'),
        (dict(epoch=3), r"no tensors, only \['epoch'\]"),
        ([torch.zeros(1)], 'holds a list'),
        (
            {'mean': torch.tensor(MEAN), 'conv1.weight': torch.zeros(1)},
            'mean of a normalisation layer alone',
        ),
        (
            {
                'mean': torch.tensor([125.0, 120.0, 110.0]),
                'std': torch.tensor(STD),
                'conv1.weight': torch.zeros(1),
            },
            'not on the scale of images',
        ),
    ],
    ids=['layout', 'no-tensors', 'list', 'mean-alone', 'pixel-scale'],
)
def test_unknown_content(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / 'source.pt'
    torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        import_checkpoint(path)


def test_other_depths_are_refused(tmp_path: Path) -> None:
    path = tmp_path / 'source.pt'
    weights = ResNet18().state_dict()
    torch.save({k: v for k, v in weights.items() if 'layer4' not in k}, path)
    with pytest.raises(ValueError, match=r'\(2, 2, 2, 0\) blocks'):
        import_checkpoint(path)
