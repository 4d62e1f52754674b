import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from mmengine.runner import activation_checkpointing
from mmpretrain.structures import DataSample
from tiny import build_adversarial, classifier_cfg
from torch import Tensor, nn

from m2at_mm.attacks import ThreatModel, attack_mode, context, pgd

DRAW = torch.Generator().manual_seed(0)
IMAGES = torch.rand(8, 3, 8, 8, generator=DRAW)
LABELS = torch.randint(4, (8,), generator=DRAW)
LIVE, FROZEN, DROPOUT = 1, 4, 6  # positions in a network
NORMS = pytest.mark.parametrize('norm', [nn.BatchNorm2d, nn.SyncBatchNorm])
EACH_MODE = pytest.mark.parametrize('bn_mode', context.BN_MODES)


def network(norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Module:
    """In train mode, with one live and one frozen batch norm."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), norm(6), nn.ReLU(), nn.Conv2d(6, 6, 3)]
    layers += [norm(6), nn.ReLU(), nn.Dropout(0.5), nn.Flatten()]
    net = nn.Sequential(*layers, nn.Linear(96, 4))
    for position in (LIVE, FROZEN):
        nn.init.normal_(net[position].running_mean, std=0.3)
        nn.init.uniform_(net[position].running_var, 0.5, 2)
        nn.init.uniform_(net[position].weight, 0.5, 2)
        nn.init.normal_(net[position].bias)
    net[FROZEN].eval().requires_grad_(False)
    net[0].bias.requires_grad_(False)
    return net


def flags(net: nn.Module) -> list[Any]:
    known = [(m.training, vars(m)) for m in net.modules()]
    modes = [(mode, own.get('track_running_stats')) for mode, own in known]
    return modes + [parameter.requires_grad for parameter in net.parameters()]


def attack(net: nn.Module, images: Tensor = IMAGES, **settings: Any) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    settings = dict(steps=2, generator=draw) | settings
    return pgd(net, images, LABELS[: len(images)], ThreatModel(), **settings)


@pytest.mark.parametrize('fails', [False, True], ids=['ends', 'raises'])
@EACH_MODE
@NORMS
def test_flags_and_buffers_stay(norm: Any, bn_mode: str, fails: bool) -> None:
    net = network(norm)
    before, state = flags(net), copy.deepcopy(net.state_dict())
    outcome = pytest.raises(KeyError) if fails else nullcontext()
    with outcome, attack_mode(net, bn_mode):
        net(IMAGES)
        if fails:
            raise KeyError('inside')
    assert flags(net) == before
    now = net.state_dict()
    changed = [k for k, v in now.items() if not torch.equal(v, state[k])]
    buffers = ('running_mean', 'running_var', 'num_batches_tracked')
    updated = [f'{LIVE}.{name}' for name in buffers]
    assert changed == (updated if bn_mode == 'train' else [])


@pytest.mark.parametrize('loss', ['ce', 'margin', 'kl'])
@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
def test_attacks_where_gradients_are_off(mode: Any, loss: str) -> None:
    net = network().eval()
    expected, before = attack(net, loss=loss), flags(net)
    with mode():
        # Inside inference_mode, an inference tensor.
        adversarial = attack(net, IMAGES * 1, loss=loss)
        assert not torch.is_grad_enabled()
    assert not torch.equal(adversarial, IMAGES)
    assert torch.equal(adversarial, expected)
    assert not adversarial.requires_grad
    assert flags(net) == before
    assert torch.is_grad_enabled()


@EACH_MODE
@NORMS
def test_modes_and_statistics_inside(norm: Any, bn_mode: str) -> None:
    net, live = network(norm), bn_mode != 'eval'
    net[DROPOUT].p = 0.0
    by_batch, by_running = copy.deepcopy(net), copy.deepcopy(net).eval()
    with torch.inference_mode(), attack_mode(net, bn_mode):
        trained = [net[k].training for k in (LIVE, FROZEN, DROPOUT)]
        assert trained == [live, False, bn_mode == 'train']
        assert not any(p.requires_grad for p in net.parameters())
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        logits = net(IMAGES)
    expected, other = by_running(IMAGES), by_batch(IMAGES)
    if live:
        expected, other = other, expected
    assert torch.allclose(logits, expected, atol=1e-4)
    assert not torch.allclose(logits, other, atol=1e-1)


@pytest.mark.parametrize('tracked', [True, False])
def test_batch_statistics_of_a_model_in_eval_mode(tracked: bool) -> None:
    net = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=tracked)).eval()
    state = copy.deepcopy(net.state_dict())
    with attack_mode(net, 'batch'):
        normalized = net(IMAGES)
    expected = F.batch_norm(IMAGES, None, None, training=True)
    assert torch.allclose(normalized, expected, atol=1e-6)
    assert not net[0].training and net[0].track_running_stats == tracked
    torch.testing.assert_close(net.state_dict(), state, rtol=0, atol=0)


@pytest.mark.parametrize('earlier', [False, True])
@EACH_MODE
def test_gradients_of_parameters_stay(bn_mode: str, earlier: bool) -> None:
    net = network()
    if earlier:
        net(IMAGES).square().sum().backward()
    before = [copy.deepcopy(p.grad) for p in net.parameters()]
    attack(net, bn_mode=bn_mode)
    after = [p.grad for p in net.parameters()]
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize('stop', [None, False, True])
@pytest.mark.parametrize('loss', ['ce', 'kl'])
def test_training_after_attacks_in_one_autocast(stop: Any, loss: str) -> None:
    """Autocast must not hand the attack's casts to the training forward."""
    found = []
    for attacked in (False, True):
        net = network()
        net[DROPOUT].p = 0.0
        with torch.autocast('cpu', torch.bfloat16):
            if attacked and stop is None:
                with attack_mode(net), torch.no_grad():
                    net(IMAGES)
            elif attacked:
                settings = dict(loss=loss, stop_when_fooled=stop)
                adversarial = attack(net, restarts=2, **settings)
                assert adversarial.dtype == torch.float32
                assert not torch.equal(adversarial, IMAGES)
            F.cross_entropy(net(IMAGES), LABELS).backward()
        named = net.named_parameters()
        found.append({k: p.grad for k, p in named if p.requires_grad})
        assert all(gradient.any() for gradient in found[-1].values())
    assert len(found[0]) == 7
    torch.testing.assert_close(*found, rtol=0, atol=0)


# Activation checkpointing.

LARGE = torch.rand(4, 3, 32, 32, generator=DRAW)
SWIN = dict(type='SwinTransformer', img_size=32, pad_small_map=True)
SWIN['arch'] = dict(embed_dims=8, depths=[1] * 4, num_heads=[1, 1, 2, 2])
SWIN['drop_path_rate'] = 0.0


def build(backbone: dict, with_cp: bool) -> Any:
    cfg = classifier_cfg()
    if backbone:
        cfg.update(backbone=dict(backbone))
        cfg['head']['in_channels'] = 64
    cfg['backbone']['with_cp'] = with_cp
    return build_adversarial(classifier=cfg).train()


@pytest.mark.parametrize('backbone', [{}, SWIN], ids=['resnet', 'swin'])
def test_same_attack_and_gradients_with_checkpointing(backbone: dict) -> None:
    plain, saving = (build(backbone, with_cp) for with_cp in (False, True))
    assert torch.equal(attack(saving, LARGE), attack(plain, LARGE))
    samples = [DataSample().set_gt_label(label) for label in LABELS[:4]]
    gradients = []
    for model in (plain, saving):
        torch.manual_seed(1)
        losses = model(LARGE, samples, mode='loss')
        # As adversarial weight perturbation takes them.
        weights = [p for p in model.parameters() if p.requires_grad]
        gradients.append(torch.autograd.grad(losses['loss'], weights))
    torch.testing.assert_close(*reversed(gradients))


def test_checkpointing_by_the_runners_setting() -> None:
    plain, saving = build_adversarial().eval(), build_adversarial().eval()
    turn_on = activation_checkpointing.turn_on_activation_checkpointing
    turn_on(saving, ['backbone.layer1'])
    assert torch.equal(attack(saving, LARGE), attack(plain, LARGE))


def test_the_functions_are_put_back_also_after_an_error() -> None:
    places = (torch.utils.checkpoint, activation_checkpointing)
    before = [place.checkpoint for place in places]
    inside = context.differentiable_checkpoints
    with pytest.raises(ZeroDivisionError), inside():
        assert all(p.checkpoint is not b for p, b in zip(places, before))
        with inside():  # an attack inside the loss
            pass
        raise ZeroDivisionError
    assert [place.checkpoint for place in places] == before


class Checkpointed(nn.Module):
    """By a name of its own, which cannot be replaced."""

    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.net = network().eval()
        self.checkpoint = torch.utils.checkpoint.checkpoint
        self.options = dict(use_reentrant=use_reentrant)

    def forward(self, images: Tensor) -> Tensor:
        return self.checkpoint(self.net, images, **self.options)


def test_errors_of_a_model_under_attack() -> None:
    with pytest.raises(RuntimeError, match=r'that name.*use_reentrant=False'):
        attack(Checkpointed(True))
    expected, found = attack(network().eval()), attack(Checkpointed(False))
    assert torch.equal(expected, found)

    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.detach().flatten(1)

    with pytest.raises(RuntimeError, match='does not require grad'):
        attack(Broken())
    with pytest.raises(ValueError, match=r"bn_mode='frozen'.*'eval', 'batch'"):
        attack_mode(network(), 'frozen').__enter__()


def test_draws_inside_leave_those_outside_alone() -> None:
    cpu, own_stream = torch.device('cpu'), context.own_random_stream
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with pytest.raises(ZeroDivisionError), own_stream(cpu):
        assert torch.equal(torch.rand(3), expected)  # they go on, inside
        raise ZeroDivisionError
    with own_stream(cpu, seed=5):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with own_stream(cpu, seed=5):  # which fixes the draws inside
        assert torch.equal(torch.rand(3), first)
