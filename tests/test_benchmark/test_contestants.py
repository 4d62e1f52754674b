from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import build_adversarial, raw_batch
from torch import Tensor

from m2at_mm.attacks import FGSM, pgd
from m2at_mm.benchmark import RIVALS, build_rivals

STEPS = 3
INSTALLED = [
    name
    for name in RIVALS
    if name != 'torchattacks' or importlib.util.find_spec(name) is not None
]
PGD = dict(type='m2at_mm.PGD', steps=STEPS, step_size='3/255')


def _problem(**settings: Any) -> tuple[Any, Tensor, Tensor]:
    model = build_adversarial(
        method=dict(type='m2at_mm.PGDAT'), train_attack=PGD, **settings
    )
    batch = model.data_preprocessor(raw_batch(num=4))
    labels = torch.cat([s.gt_label for s in batch['data_samples']])
    return model, batch['inputs'], labels


@pytest.mark.parametrize('name', ['plain', 'script', 'torchattacks'])
def test_rivals_attack_as_pgd_does(name: str) -> None:
    if name not in INSTALLED:
        pytest.skip('torchattacks is not installed')
    model, images, labels = _problem()
    rival = build_rivals([name], model, images, labels)[name]
    model.train(name != 'torchattacks')
    torch.manual_seed(1)
    found = rival.attack()
    torch.manual_seed(1)
    # The plain loop leaves the network in train mode, torchattacks doesn't.
    expected = pgd(
        model,
        images,
        labels,
        model.threat_model,
        steps=STEPS,
        step_size='3/255',
        bn_mode='eval' if name == 'torchattacks' else 'train',
    )
    same = ((found - expected).abs() < 1e-6).float().mean()
    assert same > 0.98  # but for signs of gradients near zero
    assert (found - images).abs().max() <= 8 / 255 + 1e-6


def test_each_trains_a_network_of_its_own() -> None:
    model, images, labels = _problem()
    before = [p.detach().clone() for p in model.parameters()]
    for rival in build_rivals(INSTALLED, model, images, labels).values():
        own = [p.detach().clone() for p in rival.network.parameters()]
        rival.iterate()
        moved = [p.detach() for p in rival.network.parameters()]
        assert not all(map(torch.equal, own, moved))
        assert all(p.requires_grad for p in rival.network.parameters())
        assert all(module.training for module in rival.network.modules())
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize(('name', 'more'), [('plain', 0), ('script', 2)])
def test_passes_of_the_loops(name: str, more: int) -> None:
    model, images, labels = _problem()
    rival = build_rivals([name], model, images, labels)[name]
    seen: list[Tensor] = []
    graphs: list[bool] = []

    def note(module: Any, args: tuple[Tensor], logits: Tensor) -> None:
        seen.append(args[0].detach())
        graphs.append(logits.requires_grad and module.training)

    rival.network.register_forward_hook(note)
    rival.iterate()
    assert len(seen) == STEPS + 1 + more and all(graphs)
    if name == 'script':
        assert torch.equal(seen[STEPS], seen[STEPS + 1])
        assert torch.equal(seen[-1], images)


def test_limit_is_the_passes_and_a_full_step() -> None:
    model, images, labels = _problem()
    rival = build_rivals(['limit'], model, images, labels)['limit']
    passes: list[bool] = []
    rival.network.register_forward_hook(
        lambda module, *_: passes.append(module.training)
    )
    model.train()
    loss = F.cross_entropy(model(images), labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    rival.iterate()
    assert passes == [False] * STEPS + [True]
    for parameter, expected in zip(rival.network.parameters(), gradients):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, expected, atol=1e-6)


def test_attack_without_steps_is_refused() -> None:
    model, images, labels = _problem()
    model.train_attack = object()
    with pytest.raises(ValueError, match='train_attack=object has no number'):
        build_rivals(['limit'], model, images, labels)


def test_steps_are_as_long_as_the_attacks() -> None:
    model, images, labels = _problem()
    model.train_attack = FGSM(random_start=True, step=1.25)
    rival = build_rivals(['plain'], model, images, labels)['plain']
    assert (rival.steps, rival.eps) == (1, 8 / 255)
    assert rival.step_size == pytest.approx(1.25 * 8 / 255, rel=1e-12)
