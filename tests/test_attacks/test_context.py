from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2at_mm.attacks import ThreatModel, attack_mode, pgd
from m2at_mm.attacks.context import BN_MODES

DRAW = torch.Generator().manual_seed(0)
IMAGES = torch.rand(8, 3, 8, 8, generator=DRAW)
LABELS = torch.randint(4, (8,), generator=DRAW)
LIVE, FROZEN = 1, 4  # positions of the batch norms in a network


def network(norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Module:
    """In train mode, with one live and one frozen batch norm."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        norm(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3),
        norm(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(96, 4),
    )
    for position in (LIVE, FROZEN):
        nn.init.normal_(net[position].running_mean, std=0.3)
        nn.init.uniform_(net[position].running_var, 0.5, 2)
        nn.init.uniform_(net[position].weight, 0.5, 2)
        nn.init.normal_(net[position].bias)
    net[FROZEN].eval().requires_grad_(False)
    net[0].bias.requires_grad_(False)
    return net


def flags(net: nn.Module) -> dict[str, list[bool]]:
    return dict(
        training=[module.training for module in net.modules()],
        requires_grad=[p.requires_grad for p in net.parameters()],
        tracking=[
            net[position].track_running_stats for position in (LIVE, FROZEN)
        ],
    )


def by_hand(net: nn.Module, images: Tensor, batch_live: bool) -> Tensor:
    """Logits without dropout; the live norm by batch or running statistics."""

    def normalize(features: Tensor, norm: nn.Module, batch: bool) -> Tensor:
        mean, variance = norm.running_mean, norm.running_var
        if batch:
            mean = features.mean((0, 2, 3))
            variance = features.var((0, 2, 3), unbiased=False)
        shape = (1, -1, 1, 1)
        scale = norm.weight / (variance + norm.eps).sqrt()
        centred = features - mean.view(shape)
        return centred * scale.view(shape) + norm.bias.view(shape)

    features = F.conv2d(images, net[0].weight, net[0].bias)
    features = normalize(features, net[LIVE], batch_live).relu()
    features = F.conv2d(features, net[3].weight, net[3].bias)
    features = normalize(features, net[FROZEN], False).relu()
    return F.linear(features.flatten(1), net[8].weight, net[8].bias)


def attack(net: nn.Module, bn_mode: str = 'eval') -> Tensor:
    return pgd(
        net,
        IMAGES,
        LABELS,
        ThreatModel(),
        steps=2,
        random_start=False,
        bn_mode=bn_mode,
    )


def test_network_by_hand_is_the_network() -> None:
    net = network().eval()
    assert torch.allclose(by_hand(net, IMAGES, False), net(IMAGES), atol=1e-4)


@pytest.mark.parametrize('fails', [False, True], ids=['ends', 'raises'])
@pytest.mark.parametrize('bn_mode', BN_MODES)
@pytest.mark.parametrize('norm', [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_flags_and_buffers_are_restored(
    norm: type[nn.Module], bn_mode: str, fails: bool
) -> None:
    net = network(norm)
    before, state = flags(net), copy.deepcopy(net.state_dict())

    def use() -> None:
        with attack_mode(net, bn_mode):
            net(IMAGES)
            if fails:
                raise KeyError('inside')

    if fails:
        with pytest.raises(KeyError, match='inside'):
            use()
    else:
        use()

    assert flags(net) == before
    changed = [
        name
        for name, value in net.state_dict().items()
        if not torch.equal(value, state[name])
    ]
    buffers = ('running_mean', 'running_var', 'num_batches_tracked')
    updated = [f'{LIVE}.{name}' for name in buffers]
    assert changed == (updated if bn_mode == 'train' else [])


@pytest.mark.parametrize(
    'bn_mode, live, frozen, dropout',
    [
        ('eval', False, False, False),
        ('batch', True, False, False),
        ('train', True, False, True),
    ],
)
@pytest.mark.parametrize('norm', [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_modes_inside(
    norm: type[nn.Module],
    bn_mode: str,
    live: bool,
    frozen: bool,
    dropout: bool,
) -> None:
    net = network(norm)
    with attack_mode(net, bn_mode):
        assert net[LIVE].training == live
        assert net[FROZEN].training == frozen
        assert net[6].training == dropout
        assert not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize('norm', [nn.BatchNorm2d, nn.SyncBatchNorm])
@pytest.mark.parametrize('bn_mode', ['eval', 'batch'])
def test_statistics_of_a_model_in_train_mode(
    norm: type[nn.Module], bn_mode: str
) -> None:
    net = network(norm)
    with attack_mode(net, bn_mode):
        logits = net(IMAGES)

    expected = by_hand(net, IMAGES, batch_live=bn_mode == 'batch')
    other = by_hand(net, IMAGES, batch_live=bn_mode != 'batch')
    assert torch.allclose(logits, expected, atol=1e-4)
    assert not torch.allclose(logits, other, atol=1e-1)


def test_batch_statistics_of_a_model_in_eval_mode() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3)).eval()
    state = copy.deepcopy(net.state_dict())
    with attack_mode(net, 'batch'):
        normalized = net(IMAGES)

    expected = F.batch_norm(IMAGES, None, None, training=True)
    assert torch.allclose(normalized, expected, atol=1e-6)
    assert not net[0].training
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name])


def test_batch_norm_without_running_statistics_stays_so() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))
    with attack_mode(net, 'batch'):
        net(IMAGES)

    assert not net[0].track_running_stats
    assert net[0].running_mean is None


def test_unknown_bn_mode() -> None:
    context = attack_mode(network(), 'frozen')
    with pytest.raises(ValueError, match=r"bn_mode='frozen'.*'eval', 'batch'"):
        context.__enter__()


@pytest.mark.parametrize('bn_mode', BN_MODES)
def test_no_parameter_gets_a_gradient(bn_mode: str) -> None:
    net = network()
    attack(net, bn_mode)

    assert [p for p in net.parameters() if p.grad is not None] == []


@pytest.mark.parametrize('bn_mode', BN_MODES)
def test_gradients_of_earlier_steps_are_kept(bn_mode: str) -> None:
    net = network()
    net(IMAGES).square().sum().backward()
    before = [copy.deepcopy(p.grad) for p in net.parameters()]
    attack(net, bn_mode)

    for parameter, gradient in zip(net.parameters(), before):
        if gradient is None:
            assert parameter.grad is None
        else:
            assert torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize('loss', ['ce', 'margin', 'kl'])
@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
def test_attacks_where_gradients_are_off(
    mode: Callable[[], torch.no_grad], loss: str
) -> None:
    net = network().eval()

    def draw_and_attack() -> Tensor:
        return pgd(
            net,
            IMAGES * 1,  # inside inference_mode, an inference tensor
            LABELS * 1,
            ThreatModel(),
            steps=2,
            loss=loss,
            generator=torch.Generator().manual_seed(0),
        )

    expected, before = draw_and_attack(), flags(net)
    with mode():
        adversarial = draw_and_attack()
        assert not torch.is_grad_enabled()

    assert not torch.equal(adversarial, IMAGES)
    assert torch.equal(adversarial, expected)
    assert not adversarial.requires_grad
    assert flags(net) == before
    assert torch.is_grad_enabled()


def test_gradients_are_on_inside() -> None:
    with torch.inference_mode(), attack_mode(network()):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


def weight_gradients(
    before_training: Callable[[nn.Module], object],
) -> dict[str, Tensor]:
    """One training step's gradients, after something in the same autocast."""
    net = network()
    net[6].p = 0.0
    with torch.autocast('cpu', torch.bfloat16):
        before_training(net)
        loss = F.cross_entropy(net(IMAGES), LABELS)
        loss.backward()
    return {name: p.grad for name, p in net.named_parameters()}


@pytest.mark.parametrize('loss', ['ce', 'kl'])
@pytest.mark.parametrize('stop', [False, True], ids=['all', 'until-fooled'])
def test_training_after_an_attack_in_one_autocast(
    loss: str, stop: bool
) -> None:
    def attack_first(net: nn.Module) -> None:
        adversarial = pgd(
            net,
            IMAGES,
            LABELS,
            ThreatModel(),
            steps=2,
            loss=loss,
            restarts=2,
            stop_when_fooled=stop,
        )
        assert adversarial.dtype == torch.float32
        assert stop or not torch.equal(adversarial, IMAGES)

    expected = weight_gradients(lambda net: None)
    gradients = weight_gradients(attack_first)

    trained = [name for name, value in expected.items() if value is not None]
    assert trained == [
        '0.weight', '1.weight', '1.bias', '3.weight', '3.bias',
        '8.weight', '8.bias',
    ]  # fmt: skip
    for name, value in expected.items():
        if value is None:
            assert gradients[name] is None
        else:
            assert value.any() and torch.equal(gradients[name], value)


def test_forward_without_gradients_leaves_no_cast_weights_behind() -> None:
    """Autocast must not hand the attack's casts to the training forward."""

    def look_without_gradients(net: nn.Module) -> None:
        with attack_mode(net), torch.no_grad():
            net(IMAGES)

    expected = weight_gradients(lambda net: None)
    gradients = weight_gradients(look_without_gradients)

    assert gradients['0.weight'] is not None
    assert torch.equal(gradients['0.weight'], expected['0.weight'])
