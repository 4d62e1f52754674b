from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from device_free import Watch
from mmcv.cnn.bricks import ConvAWS2d
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from tiny import build_adversarial, classifier_cfg
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from m2at_mm.attacks import NFGSM, PGD, Attack, ThreatModel, attack_mode, pgd

IMAGES = torch.rand(
    5, 3, 32, 32, generator=torch.Generator().manual_seed(0)
).double()
LABELS = torch.tensor([0, 1, 2, 3, 4])
UNTRACKED = partial(nn.BatchNorm2d, track_running_stats=False)


def trained(network: nn.Module) -> nn.Module:
    """In double precision, with batch norms as training leaves them."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            if module.track_running_stats:
                nn.init.normal_(module.running_mean, std=0.3)
                nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
    return network.double().eval()


def small(
    conv: Callable[..., nn.Module] = nn.Conv2d,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    **settings: Any,
) -> nn.Module:
    return trained(
        nn.Sequential(
            nn.Conv2d(3, 6, 3),
            nn.ReLU(),
            conv(6, 6, 3, **settings),
            norm(6),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
    )


class Layers(nn.Module):
    """A convolution, two batch norms, and a way to put them together."""

    def __init__(self, features: Callable[..., Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(6)])
        self.gate = nn.Parameter(torch.zeros(()))
        self.flag = 0
        self.features = features

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(self, images, self.norms[self.flag])
        return features.relu().mean((2, 3))


def in_place(net: Layers, images: Tensor, norm: nn.Module) -> Tensor:
    """Changes a convolution's output in front of its batch norm."""
    features = net.conv(images)
    features += 0.5
    return norm(features)


def reused(net: Layers, images: Tensor, norm: nn.Module) -> Tensor:
    features = net.conv(images)
    return norm(features) + features


def gated(net: Layers, images: Tensor, norm: nn.Module) -> Tensor:
    """A gate hides at first that the output is used twice."""
    features = net.conv(images)
    extra = net.gate * torch.add(input=features, other=1.0)
    return norm(features) + extra


def shared(net: Layers, images: Tensor, norm: nn.Module) -> Tensor:
    """One convolution for two batch norms."""
    return norm(net.conv(images)) * net.norms[1](net.conv(images))


def switched(net: Layers, images: Tensor, norm: nn.Module) -> Tensor:
    """A flag chooses between two batch norms, as AdvProp does."""
    return norm(net.conv(images))


def noisy(net: Layers, images: Tensor, norm: nn.Module) -> Tensor:
    """A randomised defence."""
    return norm(net.conv(images + 0.1 * torch.randn_like(images)))


@contextmanager
def counted_norms() -> Iterator[list[object]]:
    """One entry for each time a batch norm works by its own forward."""
    seen: list[object] = []
    plain = torch.batch_norm

    def counting(*args: Any, **kwargs: Any) -> Tensor:
        seen.append(None)
        return plain(*args, **kwargs)

    torch.batch_norm = counting
    try:
        yield seen
    finally:
        torch.batch_norm = plain


def attacked_norms(network: nn.Module, expected: Tensor | None = None) -> int:
    """How many batch norms work under attack, where the logits stay."""
    if expected is None:
        with torch.no_grad():
            expected = network(IMAGES)
    with attack_mode(network, 'eval', IMAGES):
        with counted_norms() as seen, torch.no_grad():
            found = network(IMAGES)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    return len(seen)


def mmpretrain_network(**backbone: Any) -> nn.Module:
    cfg = classifier_cfg()
    if backbone:
        cfg['backbone'] = backbone
        cfg['head'] = dict(
            type='LinearClsHead', num_classes=10, in_channels=576
        )
    return trained(MMPRETRAIN_MODELS.build(cfg))


@pytest.mark.parametrize(
    ('build', 'left'),
    [
        (mmpretrain_network, 0),
        (lambda: mmpretrain_network(type='MobileNetV3', out_indices=(12,)), 0),
        (small, 0),
        (lambda: small(groups=6), 0),
        (lambda: small(bias=False), 0),
        (lambda: small(norm=nn.SyncBatchNorm), 0),
        (lambda: small(norm=partial(nn.BatchNorm2d, affine=False)), 0),
        (lambda: small(ConvAWS2d), 1),
        (lambda: small(norm=UNTRACKED), 1),
        (lambda: trained(Layers(switched)), 0),
        (lambda: trained(Layers(reused)), 1),
        (lambda: trained(Layers(shared)), 2),
        (lambda: trained(Layers(in_place)), 1),
        (lambda: trained(Layers(gated)), 1),
        # Batch norms of a new network change nothing yet, nor would folding.
        (lambda: Layers(reused).double().eval(), 1),
        (lambda: Layers(in_place).double().eval(), 1),
        (lambda: Layers(gated).double().eval(), 1),
    ],
)
def test_same_logits_without_the_work_of_batch_norms(
    build: Callable[[], nn.Module], left: int
) -> None:
    network = build()
    assert [attacked_norms(network) for _ in range(2)] == [left, left]


def test_the_model_is_what_it_was_also_after_an_error() -> None:
    network = small()
    state = copy.deepcopy(network.state_dict())
    parameters = [id(parameter) for parameter in network.parameters()]
    attributes = [set(vars(module)) for module in network.modules()]
    with pytest.raises(ZeroDivisionError):
        with attack_mode(network, 'eval', IMAGES):
            raise ZeroDivisionError
    assert [id(p) for p in network.parameters()] == parameters
    assert [set(vars(module)) for module in network.modules()] == attributes
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert all(p.requires_grad for p in network.parameters())


def test_each_attack_folds_anew() -> None:
    """After changes of weights, statistics, modules and their use."""
    network = small()
    attacked_norms(network)
    with torch.no_grad():
        network[2].weight.mul_(1.5)
        network[3].running_mean.add_(0.2)
        network[3].bias.sub_(0.3)
    assert attacked_norms(network) == 0
    network[3] = trained(nn.BatchNorm2d(6))
    network[3].weight.data.mul_(2)
    attacked_norms(network)
    nn.utils.parametrizations.spectral_norm(network[2]).double()
    attacked_norms(network.eval())
    network = trained(Layers(switched))
    attacked_norms(network)
    network.flag = 1
    attacked_norms(network)


def test_an_attack_inside_an_attack() -> None:
    network = small()
    with torch.no_grad():
        expected = network(IMAGES)
    with attack_mode(network, 'eval', IMAGES):
        attacked_norms(network, expected)
        torch.testing.assert_close(network(IMAGES), expected)
    torch.testing.assert_close(network(IMAGES), expected, rtol=0, atol=0)


def test_a_forward_of_an_instance_stays() -> None:
    network = small()
    own = network[3].forward
    network[3].forward = lambda images: 2 * own(images)
    attacked_norms(network)
    attacked_norms(network)
    assert 'forward' in network[3].__dict__


@pytest.mark.parametrize('how', ['module', 'in place', 'forward'])
def test_compiled_models_run(how: str) -> None:
    network = small()
    with torch.no_grad():
        expected = network(IMAGES)
    if how == 'module':
        network = torch.compile(network, backend='eager')
    elif how == 'in place':
        network.compile(backend='eager')
    else:
        network.forward = torch.compile(network.forward, backend='eager')
    attacked_norms(network, expected)


def test_no_image_at_all() -> None:
    network = small()
    with attack_mode(network, 'eval', IMAGES[:0]):
        assert network(IMAGES).shape == (5, 6)


def test_halved_convolutions_before_full_batch_norms() -> None:
    network = small().float()
    for module in network:
        if isinstance(module, nn.Conv2d):
            module.bfloat16()
    images = IMAGES.bfloat16()
    with torch.no_grad():
        expected = network(images)
    with attack_mode(network, 'eval', images), torch.no_grad():
        found = network(images)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize('position', [2, 3])
@pytest.mark.parametrize(
    'register',
    [
        nn.Module.register_forward_hook,
        nn.Module.register_forward_pre_hook,
        nn.Module.register_full_backward_hook,
        nn.Module.register_full_backward_pre_hook,
    ],
)
def test_nothing_is_hidden_from_a_hook(
    position: int, register: Callable[..., Any]
) -> None:
    network = small()
    seen: list[Any] = []
    register(network[position], lambda *values: seen.append(values[1:]))
    assert attacked_norms(network) == 1


def test_a_randomised_model_keeps_its_draws() -> None:
    network = Layers(noisy).double().eval()
    torch.manual_seed(1)
    with torch.no_grad():
        expected = network(IMAGES)
    torch.manual_seed(1)
    attacked_norms(network, expected)


@pytest.mark.parametrize('mode', ['batch', 'train'])
def test_batch_statistics_are_not_folded(mode: str) -> None:
    network = small().train()
    with attack_mode(network, mode, IMAGES), counted_norms() as seen:
        network(IMAGES)
    assert len(seen) == 1


@pytest.mark.parametrize(
    'attack', [PGD(steps=5), NFGSM()], ids=['pgd', 'n-fgsm']
)
def test_attacks_find_the_same_images(
    attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = trained(build_adversarial())
    found, worked = [], []
    for _ in range(2):
        torch.manual_seed(0)
        with counted_norms() as seen:
            found.append(attack(network, IMAGES, LABELS, ThreatModel()))
        worked.append(len(seen))
        monkeypatch.setattr(
            'm2at_mm.attacks.batch_norm_folding._find_pairs', lambda *_: []
        )
    # Folded, only the pass that looks for pairs needs them.
    assert worked == [20, 20 * (attack.steps or 1)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ('on', 'dtype', 'cast'),
    [
        (False, torch.float32, torch.float32),
        (True, torch.float32, torch.bfloat16),
        (True, torch.float64, torch.float64),
    ],
)
def test_weights_are_cast_once_for_autocast(
    on: bool, dtype: torch.dtype, cast: torch.dtype
) -> None:
    network, images = small().to(dtype), IMAGES.to(dtype)
    with torch.autocast('cpu', torch.bfloat16, enabled=on):
        with attack_mode(network, 'eval', images), torch.no_grad():
            # The first convolution has no batch norm behind it.
            kinds = [network[k].weight.dtype for k in (0, 2)]
            logits = network(images)
        assert kinds == [dtype, cast]
        plain = network(images)
    tolerance = 0.02 * plain.abs().max().item() if on else 1e-5
    assert torch.allclose(logits.float(), plain.float(), atol=tolerance)


@pytest.mark.parametrize(('steps', 'folded'), [(7, False), (8, True)])
def test_an_attack_asks_whether_folding_pays(
    steps: int, folded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('M2AT_MM_DEBUG')
    # Any device but the CPU counts as a GPU.
    network = small().float().to('meta')
    images, labels = IMAGES.float().to('meta'), LABELS.to('meta')
    settings = dict(steps=steps, check_range=False)
    with Watch() as watch:
        pgd(network, images, labels, ThreatModel(), **settings)
    seen = sum(
        count for name, count in watch.calls.items() if 'batch_norm' in name
    )
    # The search for pairs runs it once.
    assert seen == (1 if folded else 2 * steps)
