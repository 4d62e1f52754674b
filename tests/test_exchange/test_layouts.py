"""Import against the network that the weights were trained with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from mmpretrain.registry import MODELS
from pyautoattack.examples.resnet import ResNet18, ResNet50
from torch import Tensor, nn

from m2at_mm.backbones import PreActResNet_CIFAR, WideResNet_CIFAR
from m2at_mm.exchange import Imported, PlainClassifier, import_checkpoint

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]


class Normalised(nn.Module):
    """A normalisation layer, and maybe a network behind it."""

    def __init__(
        self, model: nn.Module | None = None, names: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.names = names or ('mu', 'sigma')
        for name, value in zip(self.names, (MEAN, STD)):
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1))
        self.model = nn.Identity() if model is None else model

    def forward(self, images: Tensor) -> Tensor:
        mean, std = (getattr(self, name) for name in self.names)
        return self.model((images - mean) / std)


def _plain(imported: Imported) -> PlainClassifier:
    """What a user builds of what was imported."""
    classifier = dict(imported.classifier, _scope_='mmpretrain')
    statistics = [
        torch.tensor(given or default).view(-1, 1, 1)
        for given, default in ((imported.mean, [0.0]), (imported.std, [255.0]))
    ]
    plain = PlainClassifier(MODELS.build(classifier), *statistics)
    plain.model.load_state_dict(imported.state_dict)
    return plain


@torch.no_grad()
def _check_logits(
    imported: Imported, images: Tensor, expected: Tensor, atol: float = 1e-4
) -> None:
    logits = _plain(imported)(images)
    torch.testing.assert_close(logits, expected, atol=atol, rtol=1e-4)


SOURCES: dict[str, tuple[Callable, Callable]] = {
    'bare': (lambda net: net, lambda weights: weights),
    'state_dict': (nn.DataParallel, lambda w: dict(state_dict=w, epoch=3)),
    'net': (Normalised, lambda w: dict(net=w, acc=91.0)),
    'data parallel': (
        lambda net: nn.DataParallel(Normalised(net)),
        lambda weights: weights,
    ),
    'sequential': (
        lambda net: nn.Sequential(Normalised(names=('mean', 'std')), net),
        lambda weights: weights,
    ),
}


@pytest.mark.parametrize('source', SOURCES)
def test_logits_are_those_of_the_source(source: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    wrap, contain = SOURCES[source]
    model = wrap(ResNet18()).eval()
    torch.save(contain(model.state_dict()), tmp_path / 'source.pt')
    imported = import_checkpoint(tmp_path / 'source.pt')
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        _check_logits(imported, images, model(images))
    normalised = source not in ('bare', 'state_dict')
    for found, given in ((imported.mean, MEAN), (imported.std, STD)):
        expected = pytest.approx([255 * x for x in given])
        assert found == (expected if normalised else None)


def test_bottleneck_depth_is_found(tmp_path: Path) -> None:
    net = ResNet50().eval()
    torch.save(net.state_dict(), tmp_path / 'source.pt')
    imported = import_checkpoint(tmp_path / 'source.pt')
    assert imported.classifier['backbone']['depth'] == 50
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        _check_logits(imported, images, net(images))


def _with_layer(
    backbone: nn.Module, images: Tensor, name: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits of a backbone with a linear layer behind, and the weights."""
    with torch.no_grad():
        features = backbone.eval()(images)[-1].mean((2, 3))
        layer = nn.Linear(features.shape[1], 10)
        logits = layer(features)
    last = {f'{name}.{k}': v for k, v in layer.state_dict().items()}
    return logits, {**backbone.state_dict(), **last}


@pytest.mark.parametrize(
    ('dtype', 'channels'),
    [(torch.float32, 3), (torch.float16, 1), (torch.float64, 4)],
)
@pytest.mark.parametrize(
    ('net', 'settings', 'layer'),
    [
        (PreActResNet_CIFAR, dict(depth=18, base_channels=8), 'linear'),
        (PreActResNet_CIFAR, dict(depth=50, base_channels=4), 'fc'),
        (WideResNet_CIFAR, dict(depth=16, widen_factor=2), 'fc'),
    ],
    ids=['preact18', 'preact50', 'wide'],
)
def test_pre_activation_and_wide_nets(
    net: Callable[..., nn.Module],
    settings: dict[str, int],
    layer: str,
    dtype: torch.dtype,
    channels: int,
    tmp_path: Path,
) -> None:
    """Their names are the published ones; see the backbones' tests.

    Images are not square, and of any number of channels.
    """
    torch.manual_seed(0)
    images = torch.rand(2, channels, 32, 48)
    mean = torch.linspace(0.2, 0.5, channels)
    normalised = (images - mean.view(-1, 1, 1)) / 0.25
    backbone = net(in_channels=channels, **settings)
    expected, weights = _with_layer(backbone, normalised, layer)
    weights['sub_block1.layer.0.bn1.weight'] = torch.ones(3)
    weights.update(mean=mean, std=torch.tensor([0.25]))
    weights = {f'module.{k}': v.to(dtype) for k, v in weights.items()}
    torch.save(dict(state_dict=weights), tmp_path / 'source.pt')
    imported = import_checkpoint(tmp_path / 'source.pt')
    assert imported.classifier['backbone'].items() >= settings.items()
    assert imported.num_channels == channels and imported.mean is not None
    tolerance = 0.02 if dtype == torch.float16 else 1e-4
    _check_logits(imported, images, expected, tolerance)


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
    weights = ResNet18().state_dict()
    fewer = {k: v for k, v in weights.items() if 'layer4' not in k}
    torch.save(fewer, tmp_path / 'source.pt')
    with pytest.raises(ValueError, match=r'\(2, 2, 2, 0\) blocks'):
        import_checkpoint(tmp_path / 'source.pt')
