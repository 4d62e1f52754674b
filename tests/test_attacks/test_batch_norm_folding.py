import copy
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from mmcv.cnn.bricks import ConvAWS2d
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from normalised import Layers
from tiny import build_adversarial, classifier_cfg
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from m2at_mm.attacks import NFGSM, PGD, ThreatModel, attack_mode
from m2at_mm.attacks import batch_norm_folding as folding

DRAW = torch.Generator().manual_seed(0)
IMAGES = torch.rand(5, 3, 32, 32, generator=DRAW).double()
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
    conv: Any = nn.Conv2d, norm: Any = nn.BatchNorm2d, **settings: Any
) -> nn.Module:
    tail = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    first, second = nn.Conv2d(3, 6, 3), conv(6, 6, 3, **settings)
    return trained(nn.Sequential(first, nn.ReLU(), second, norm(6), *tail))


@contextmanager
def counted_norms() -> Iterator[list[None]]:
    """One entry for each time a batch norm works by its own forward."""
    seen, plain = [], torch.batch_norm

    def counting(*args: Any, **kwargs: Any) -> Tensor:
        seen.append(None)
        return plain(*args, **kwargs)

    with mock.patch.object(torch, 'batch_norm', counting):
        yield seen


def logits(network: nn.Module, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        return network(images)


def watch(network: nn.Module, images: Tensor = IMAGES) -> None:
    """The first pass for a gradient, in which nothing is folded yet."""
    network(images.clone().requires_grad_(True))


def attacked_norms(network: nn.Module, expected: Tensor | None = None) -> int:
    """How many batch norms work under attack, where the logits stay."""
    if expected is None:
        expected = logits(network)
    with attack_mode(network, 'eval', IMAGES):
        with counted_norms() as whole:
            watch(network)
        with counted_norms() as seen:
            found = logits(network)
    assert len(whole) >= len(seen)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    return len(seen)


def mmpretrain_network(**backbone: Any) -> nn.Module:
    cfg = classifier_cfg()
    if backbone:
        head = dict(type='LinearClsHead', num_classes=10, in_channels=576)
        cfg.update(backbone=backbone, head=head)
    return trained(MMPRETRAIN_MODELS.build(cfg))


def new(features: str) -> nn.Module:
    """Its batch norms change nothing yet, nor would folding."""
    return Layers(features).double().eval()


def old(features: str) -> nn.Module:
    return trained(Layers(features))


READ_OTHERWISE = 'reused in_place gated function function_backward raw by_size'
READ_OTHERWISE += ' scripted_function scripted_module'


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
        *((partial(new, name), 1) for name in ('reused', 'in_place', 'gated')),
        (partial(old, 'switched'), 0),
        (partial(old, 'shared'), 2),
        *((partial(old, name), 1) for name in READ_OTHERWISE.split()),
    ],
)
def test_same_logits_without_batch_norms(build: Callable, left: int) -> None:
    network = build()
    assert [attacked_norms(network) for _ in range(2)] == [left, left]


def test_the_model_is_what_it_was_also_after_an_error() -> None:
    network = small()
    state = copy.deepcopy(network.state_dict())

    def parts() -> list[Any]:
        flags = [(id(p), p.requires_grad) for p in network.parameters()]
        own = [kv for one in network.modules() for kv in vars(one).items()]
        return flags + [(k, k.endswith('_hooks') and len(v)) for k, v in own]

    before = parts()
    with pytest.raises(ZeroDivisionError):
        with attack_mode(network, 'eval', IMAGES):
            watch(network)
            assert parts() != before
            raise ZeroDivisionError
    with pytest.raises(RuntimeError), attack_mode(network, 'eval', IMAGES):
        watch(network, IMAGES[:, :1])
    assert parts() == before
    # An interrupt, which is no Exception, in the midst of what is watched.
    interrupted = mock.patch.object(
        nn.AdaptiveAvgPool2d, 'forward', side_effect=KeyboardInterrupt
    )
    with pytest.raises(KeyboardInterrupt), interrupted:
        with attack_mode(network, 'eval', IMAGES):
            watch(network)
    assert parts() == before
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert all(p.requires_grad for p in network.parameters())


def test_no_activation_is_kept_after_the_first_pass() -> None:
    network = small()
    with attack_mode(network, 'eval', IMAGES):
        watch(network)
        gc.collect()
        sizes = {x.shape for x in gc.get_objects() if type(x) is Tensor}
        # The outputs of the two convolutions.
        assert not {(5, 6, 30, 30), (5, 6, 28, 28)} & sizes


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
    network = old('switched')
    for network.flag in (0, 1):
        attacked_norms(network)


def test_an_attack_inside_an_attack_and_no_image_at_all() -> None:
    network = small()
    expected = logits(network)
    with attack_mode(network, 'eval', IMAGES):
        attacked_norms(network, expected)
        watch(network)
        torch.testing.assert_close(network(IMAGES), expected)
    torch.testing.assert_close(network(IMAGES), expected, rtol=0, atol=0)
    with attack_mode(network, 'eval', IMAGES[:0]):
        assert network(IMAGES).shape == (5, 6)


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
    expected = logits(network)
    if how == 'module':
        network = torch.compile(network, backend='eager')
    elif how == 'in place':
        network.compile(backend='eager')
    else:
        network.forward = torch.compile(network.forward, backend='eager')
    attacked_norms(network, expected)


def test_halved_convolutions_before_full_batch_norms() -> None:
    network, images = small().float(), IMAGES.bfloat16()
    for position in (0, 2):
        network[position].bfloat16()
    expected = logits(network, images)
    with attack_mode(network, 'eval', images):
        watch(network, images)
        found = logits(network, images)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize('position', [2, 3])
@pytest.mark.parametrize(
    'kind', ['forward', 'forward_pre', 'full_backward', 'full_backward_pre']
)
def test_nothing_is_hidden_from_a_hook(position: int, kind: str) -> None:
    network = small()
    register = getattr(network[position], f'register_{kind}_hook')
    register(lambda *values: None)
    assert attacked_norms(network) == 1


def test_a_randomised_model_keeps_its_draws() -> None:
    network = new('noisy')
    torch.manual_seed(1)
    expected = logits(network)
    with attack_mode(network, 'eval', IMAGES):
        watch(network)
        torch.manual_seed(1)
        assert torch.equal(logits(network), expected)


@pytest.mark.parametrize('mode', ['batch', 'train'])
def test_batch_statistics_are_not_folded(mode: str) -> None:
    network = small().train()
    with attack_mode(network, mode, IMAGES), counted_norms() as seen:
        network(IMAGES)
    assert len(seen) == 1


@pytest.mark.parametrize('attack', [PGD(steps=5), NFGSM()])
def test_attacks_find_the_same_images(attack: Any, monkeypatch: Any) -> None:
    network = trained(build_adversarial())
    found, worked = [], []
    for _ in range(2):
        torch.manual_seed(0)
        with counted_norms() as seen:
            found.append(attack(network, IMAGES, LABELS, ThreatModel()))
        worked.append(len(seen))
        monkeypatch.setattr(folding, '_allowed', False)
    # Folded, only the pass that looks for pairs needs them.
    assert worked == [20, 20 * (attack.steps or 1)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-9)


HALF, FLOAT, DOUBLE = torch.bfloat16, torch.float32, torch.float64


@pytest.mark.parametrize(
    ('on', 'dtype', 'cast'),
    [(False, FLOAT, FLOAT), (True, FLOAT, HALF), (True, DOUBLE, DOUBLE)],
)
def test_weights_are_cast_once(on: bool, dtype: Any, cast: Any) -> None:
    network, images = small().to(dtype), IMAGES.to(dtype)
    with torch.autocast('cpu', torch.bfloat16, enabled=on):
        with attack_mode(network, 'eval', images):
            watch(network, images)
            folded = logits(network, images)
            # The first convolution has no batch norm behind it.
            kinds = [network[k].weight.dtype for k in (0, 2)]
        assert kinds == [dtype, cast]
        plain = network(images)
    tolerance = 0.02 * plain.abs().max().item() if on else 1e-5
    assert torch.allclose(folded.float(), plain.float(), atol=tolerance)
