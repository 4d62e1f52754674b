from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from digits_runner import build_digits_runner
from tiny import build_adversarial, labels_of, raw_batch
from torch import Tensor

from benchmarking import rivals
from benchmarking.rivals import OURS, RIVALS
from m2at_mm.attacks import FGSM, pgd
from m2at_mm.methods import M2AT, PGDAT, TRADES

STEPS = 3
PGD = dict(type='m2at_mm.PGD', steps=STEPS, step_size='3/255')


@pytest.fixture
def problem() -> tuple[Any, Tensor, Tensor]:
    """A model, images and labels."""
    model = build_adversarial(
        method=dict(type='m2at_mm.PGDAT'), train_attack=PGD
    )
    batch = model.data_preprocessor(raw_batch(num=4))
    return model, batch['inputs'], labels_of(batch['data_samples'])


@pytest.mark.parametrize('name', sorted({*rivals.INSTALLED} - {'limit'}))
def test_rivals_attack_as_pgd_does(name: str, problem: Any) -> None:
    model, images, _ = problem
    rival = RIVALS[name](*problem)
    # The plain loop leaves the network in train mode, torchattacks doesn't.
    bn_mode = 'eval' if name == 'torchattacks' else 'train'
    model.train(bn_mode == 'train')
    torch.manual_seed(1)
    found = rival.attack()
    torch.manual_seed(1)
    settings = dict(steps=STEPS, step_size='3/255', bn_mode=bn_mode)
    expected = pgd(*problem, model.threat_model, **settings)
    same = ((found - expected).abs() < 1e-6).float().mean()
    assert same > 0.98  # but for signs of gradients near zero
    assert (found - images).abs().max() <= 8 / 255 + 1e-6


@pytest.mark.parametrize('name', rivals.INSTALLED)
def test_iteration_of_a_network_of_its_own(name: str, problem: Any) -> None:
    model, images, labels = problem
    before = [p.detach().clone() for p in model.parameters()]
    rival = RIVALS[name](*problem)
    seen: list[tuple[Tensor, bool]] = []

    def note(module: Any, args: tuple[Tensor], logits: Tensor) -> None:
        seen.append((args[0].detach(), module.training))
        assert logits.requires_grad

    rival.network.register_forward_hook(note)
    rival()
    moved = list(rival.network.parameters())
    assert not all(map(torch.equal, before, moved))
    assert all(p.requires_grad for p in moved)
    assert all(module.training for module in rival.network.modules())
    assert all(map(torch.equal, before, model.parameters()))
    in_attack = name in ('plain', 'script')
    modes = [in_attack] * STEPS + [True] * (3 if name == 'script' else 1)
    assert [training for _, training in seen] == modes
    if name == 'script':
        assert torch.equal(seen[STEPS][0], seen[STEPS + 1][0])
        assert torch.equal(seen[-1][0], images)
    if name == 'limit':
        loss = F.cross_entropy(model.train()(images), labels)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        for parameter, expected in zip(moved, gradients):
            assert parameter.grad is not None
            assert torch.allclose(parameter.grad, expected, atol=1e-6)


def test_steps_are_those_of_the_attack(problem: Any) -> None:
    rival = RIVALS['plain'](*problem, FGSM(random_start=True, step=1.25))
    assert (rival.steps, rival.eps) == (1, 8 / 255)
    assert rival.step_size == pytest.approx(1.25 * 8 / 255, rel=1e-12)


def test_of_a_runner(tmp_path: Path) -> None:
    runner = build_digits_runner(tmp_path, 8)
    rival = rivals.rivals_of(['limit'], runner)['limit']
    dataset = runner.train_dataloader.dataset
    labels = [dataset.get_data_info(i)['gt_label'] for i in range(8)]
    assert rival.labels.tolist() == labels
    assert rival.images.shape[0] == 8
    assert 0 <= rival.images.min() and rival.images.max() <= 1

    model: Any = runner.model
    own, attack = model.method, model.train_attack
    switches = rivals.switches_of(['trades', 'pgd-at'], runner)
    assert list(switches) == [OURS, f'{OURS} trades', f'{OURS} pgd-at']
    for name, method in zip([*switches, OURS], (M2AT, TRADES, PGDAT, M2AT)):
        switches[name]()
        assert isinstance(model.method, method)
        assert model.train_attack.steps == attack.steps
        assert model.train_attack.step_size == attack.step_size
    assert model.method is own and model.train_attack is attack
