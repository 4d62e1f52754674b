"""All methods but M2AT against their papers."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper
from tiny import RECIPES, build_adversarial, build_stock, labels_of, raw_batch
from torch import Tensor

from m2at_mm.methods import IAT, PGDAT, AVmixup, Standard
from m2at_mm.methods.baselines import Mixup

ROWS = torch.arange(6)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p.log() - q.log())).sum(1)


PLAIN = [(Standard, 'images', 'accuracy')]
PLAIN += [(PGDAT, 'adversarial', 'adversarial_accuracy')]


@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize(('method', 'images', 'name'), PLAIN)
def test_cross_entropy(
    check: Any, method: Any, images: str, name: str, soft: bool
) -> None:
    seen: list[Tensor] = []
    wanted = check.scores if soft else check.labels

    def reference(net: Any) -> Tensor:
        seen.append(net(getattr(check, images)))
        return F.cross_entropy(seen[0], wanted)

    losses = check.compare(method.__name__, reference, soft=soft)

    right = seen[0].argmax(1) == check.labels
    assert losses.keys() == {'loss', name}
    accuracy = 100 * right.float().mean().item()
    assert losses[name].item() == pytest.approx(accuracy)
    assert len(check.calls) == method().needs_attack
    for _, clean, given, threat_model in check.calls:
        assert clean is check.images
        assert given.tolist() == wanted.tolist()
        assert threat_model.to_dict() == {'norm': 'linf', 'eps': 8 / 255}


@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize('beta', [6.0, 1.5])
def test_trades(check: Any, soft: bool, beta: float) -> None:
    truth = check.scores if soft else F.one_hot(check.labels, 10)

    def reference(net: Any) -> Tensor:
        p, q = (x.softmax(1) for x in map(net, check.both))
        natural = -(truth * p.log()).sum(1).mean()
        return natural + beta * kl(p, q).mean()

    losses = check.compare('TRADES', reference, soft=soft, beta=beta)
    expected = {'loss', 'loss_consistency', 'adversarial_accuracy'}
    assert losses.keys() == expected


@pytest.mark.parametrize('beta', [5.0, 0.0])
def test_mart(check: Any, beta: float) -> None:
    def reference(net: Any) -> Tensor:
        p, q = (x.softmax(1) for x in map(net, check.both))
        others, own = q.clone(), (ROWS, check.labels)
        others[own] = -1
        margin = -torch.log(1.0001 - others.max(1).values + 1e-12)
        boosted, unsure = -q[own].log() + margin, 1 - p[own]
        return boosted.mean() + beta * (kl(p, q) * unsure).mean()

    check.compare('MART', reference, beta=beta)


def test_avmixup(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = torch.tensor([0.0, 1.0, 0.5, 0.25, 0.9, 0.1])
    monkeypatch.setattr(AVmixup, 'draw', lambda self, images: draws)

    def reference(net: Any) -> Tensor:
        images, targets = [], []
        for n in range(6):  # one image at a time, as the paper writes it
            x, a = check.images[n], draws[n]
            vertex = (x + 2 * (check.adversarial[n] - x)).clip(0, 1)
            images.append(a * x + (1 - a) * vertex)
            y = F.one_hot(check.labels[n], 10).float()
            smooth = torch.where(y == 1, 0.1, 0.9 / 9)
            targets.append(a * y + (1 - a) * smooth)
        logits = net(torch.stack(images))
        return -(torch.stack(targets) * logits.log_softmax(1)).sum() / 6

    losses = check.compare('AVmixup', reference)
    assert losses.keys() == {'loss', 'kept_share', 'adversarial_accuracy'}
    assert losses['kept_share'] == pytest.approx(1 - draws.mean().item())


def test_iat(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = [5, 4, 3, 2, 1, 0], [1, 2, 0, 3, 5, 4]
    drawn = [*map(Mixup, torch.tensor([0.3, 0.8]), map(torch.tensor, orders))]
    monkeypatch.setattr(IAT, 'draw', lambda self, images: drawn)

    def reference(net: Any) -> Tensor:
        total = torch.zeros(())
        for images, (lam, other) in zip(check.both, drawn):
            logits = net(lam * images + (1 - lam) * images[other])
            total += lam * F.cross_entropy(logits, check.labels) / 2
            loss = F.cross_entropy(logits, check.labels[other])
            total += (1 - lam) * loss / 2
        return total

    losses = check.compare('IAT', reference)
    assert losses.keys() == {'loss', 'adversarial_accuracy'}


def test_draws_are_uniform() -> None:
    torch.manual_seed(0)
    draws = AVmixup().draw(torch.zeros(4000, 1, 1, 1))
    assert draws.shape == (4000,)
    assert draws.min() >= 0 and draws.max() <= 1
    assert draws.mean().item() == pytest.approx(0.5, abs=0.03)
    assert draws.var().item() == pytest.approx(1 / 12, abs=0.01)
    ratios = []
    for _ in range(500):
        clean, adversarial = IAT().draw(torch.zeros(5, 1, 1, 1))
        assert sorted(clean.partner.tolist()) == [0, 1, 2, 3, 4]
        assert clean.ratio != adversarial.ratio
        ratios.append(clean.ratio)
    assert torch.stack(ratios).mean().item() == pytest.approx(0.5, abs=0.05)


EPS = 8 / 255


def test_published_loop() -> None:
    """Three replays of each of three batches, the last one smaller."""
    batches = [*(raw_batch(4, seed=k) for k in (0, 1)), raw_batch(3)]
    ours = build_adversarial(**RECIPES['FreeAT']).train()
    ours.data_preprocessor.memory_format = torch.contiguous_format
    stock = build_stock().train()
    stock.load_state_dict(ours.state_dict())
    wrapper = OptimWrapper(torch.optim.SGD(ours.parameters(), lr=0.01))
    optimiser = torch.optim.SGD(stock.parameters(), lr=0.01)
    data = stock.data_preprocessor
    noise = torch.zeros(4, 3, 32, 32)
    for batch in batches:
        images = batch['inputs'].float() / 255
        labels = labels_of(batch['data_samples'])
        for _ in range(3):
            own = ours.train_step(batch, wrapper)['loss']
            num = len(images)
            delta = noise[:num].clone().requires_grad_(True)
            seen = (images + delta).clamp(0, 1)
            logits = stock((seen * 255 - data.mean) / data.std, mode='tensor')
            loss = F.cross_entropy(logits, labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            noise[:num] += EPS * delta.grad.sign()
            noise.clamp_(-EPS, EPS)
            assert own.item() == pytest.approx(loss.item(), abs=1e-4)
    for parameter, other in zip(ours.parameters(), stock.parameters()):
        torch.testing.assert_close(parameter, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_perturbation_stays_in_the_ball(norm: str) -> None:
    threat_model = dict(norm=norm, eps='128/255')
    ours = build_adversarial(**RECIPES['FreeAT'], threat_model=threat_model)
    ours.train()
    wrapper = OptimWrapper(torch.optim.SGD(ours.parameters(), lr=0.01))
    for _ in range(4):
        ours.train_step(raw_batch(), wrapper)
    moved = ours.method.state_dict()['perturbation'].flatten(1)
    length = moved.abs().amax(1) if norm == 'linf' else moved.norm(dim=1)
    assert length.max() <= 128 / 255 * (1 + 1e-6)
    assert length.min() > 0.9 * 128 / 255
