"""Import against the network that the weights were trained with."""

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

    def __init__(self, model: Any = None, names: Sequence[str] = ()) -> None:
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
    given = (imported.mean or [0.0], imported.std or [255.0])
    statistics = (torch.tensor(one).view(-1, 1, 1) for one in given)
    plain = PlainClassifier(MODELS.build(classifier), *statistics)
    plain.model.load_state_dict(imported.state_dict)
    return plain


def _in_sequence(net: nn.Module) -> nn.Module:
    return nn.Sequential(Normalised(names=('mean', 'std')), net)


SOURCES: dict[str, tuple[Callable, Callable]] = {
    'bare': (nn.Module.eval, dict),
    'state_dict': (nn.DataParallel, lambda w: dict(state_dict=w, epoch=3)),
    'net': (Normalised, lambda w: dict(net=w, acc=91.0)),
    'data parallel': (lambda net: nn.DataParallel(Normalised(net)), dict),
    'sequential': (_in_sequence, dict),
}


@torch.no_grad()
@pytest.mark.parametrize(
    ('source', 'net', 'depth'),
    [*((source, ResNet18, 18) for source in SOURCES), ('bare', ResNet50, 50)],
)
def test_logits(source: str, net: Any, depth: int, tmp_path: Path) -> None:
    """They are those of the source."""
    torch.manual_seed(0)
    wrap, contain = SOURCES[source]
    model = wrap(net()).eval()
    torch.save(contain(model.state_dict()), tmp_path / 'source.pt')
    imported = import_checkpoint(tmp_path / 'source.pt')
    assert imported.classifier['backbone']['depth'] == depth
    images = torch.rand(2, 3, 32, 32)
    logits = _plain(imported)(images)
    torch.testing.assert_close(logits, model(images), atol=1e-4, rtol=1e-4)
    normalised = source not in ('bare', 'state_dict')
    for found, given in ((imported.mean, MEAN), (imported.std, STD)):
        expected = pytest.approx([255 * x for x in given])
        assert found == (expected if normalised else None)


@torch.no_grad()
@pytest.mark.parametrize(
    ('dtype', 'num'),
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
    net: Any, settings: Any, layer: str, dtype: Any, num: int, tmp_path: Path
) -> None:
    """Their names are the published ones; see the backbones' tests.

    Images are not square, and of any number of channels.
    """
    torch.manual_seed(0)
    images = torch.rand(2, num, 32, 48)
    mean = torch.linspace(0.2, 0.5, num)
    normalised = (images - mean.view(-1, 1, 1)) / 0.25
    backbone = net(in_channels=num, **settings).eval()
    features = backbone(normalised)[-1].mean((2, 3))
    last = nn.Linear(features.shape[1], 10)
    weights = backbone.state_dict()
    weights |= {f'{layer}.{k}': v for k, v in last.state_dict().items()}
    weights['sub_block1.layer.0.bn1.weight'] = torch.ones(3)
    weights.update(mean=mean, std=torch.tensor([0.25]))
    weights = {f'module.{k}': v.to(dtype) for k, v in weights.items()}
    torch.save(dict(state_dict=weights), tmp_path / 'source.pt')
    imported = import_checkpoint(tmp_path / 'source.pt')
    assert imported.classifier['backbone'].items() >= settings.items()
    assert imported.num_channels == num and imported.mean is not None
    close = dict(atol=0.02 if dtype == torch.float16 else 1e-4, rtol=1e-4)
    logits = _plain(imported)(images)
    torch.testing.assert_close(logits, last(features), **close)


ALONE = {'conv1.weight': torch.zeros(1), 'mean': torch.tensor(MEAN)}
PIXELS = ALONE | dict(mean=255 * torch.tensor(MEAN), std=torch.tensor(STD))
FEWER = {k: v for k, v in ResNet18().state_dict().items() if 'layer4' not in k}


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'conv.weight': torch.zeros(1)}, 'layout of the keys'),
        (dict(epoch=3), r"no tensors, only \['epoch'\]"),
        ([torch.zeros(1)], 'holds a list'),
        (ALONE, 'mean of a normalisation layer alone'),
        (PIXELS, 'not on the scale of images'),
        (FEWER, r'\(2, 2, 2, 0\) blocks'),
    ],
    ids=['layout', 'no-tensors', 'list', 'mean-alone', 'pixel-scale', 'depth'],
)
def test_unknown_content(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / 'source.pt')
    with pytest.raises(ValueError, match=message):
        import_checkpoint(tmp_path / 'source.pt')
