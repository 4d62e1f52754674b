from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2at_mm.attacks import PGD, ThreatModel, pgd
from m2at_mm.registry import TASK_UTILS

NORMS = pytest.mark.parametrize('norm, eps', [('linf', 0.05), ('l2', 0.5)])
LABEL_LOSSES = pytest.mark.parametrize('loss', ['ce', 'margin'])


class Recorder(nn.Module):
    """Keeps the images of each forward that is to be differentiated."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.batches: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad:
            self.batches.append(images.detach().clone())
        return self.net(images)


@pytest.mark.parametrize('bn_mode', ['eval', 'train', 'batch'])
@LABEL_LOSSES
@NORMS
def test_an_image_is_attacked_as_if_alone(
    digits: Any, norm: str, eps: float, loss: str, bn_mode: str
) -> None:
    images, labels = digits.images[:6], digits.labels[:6]
    # 'train' leaves a model in eval mode there
    attack = PGD(steps=4, loss=loss, random_start=False, bn_mode=bn_mode)
    together, *alone = (
        attack(digits.net, images[part], labels[part], ThreatModel(norm, eps))
        for part in (slice(None), *(slice(k, k + 1) for k in range(6)))
    )
    assert (together - images).flatten(1).norm(dim=1).min() > eps / 2
    change = (together - torch.cat(alone)).abs().max()
    # Batch statistics tie the images of a batch.
    assert change > 1e-3 if bn_mode == 'batch' else change < 1e-9


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_generator_decides_the_random_start(digits: Any, norm: str) -> None:
    given: Any = dict(steps=2, restarts=2)
    found = (digits.attack(0.1, 20, norm, seed=n, **given) for n in (0, 0, 1))
    first, again, other = found
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_start_near_the_image(digits: Any) -> None:
    recorder, images = Recorder(digits.net), digits.images
    torch.manual_seed(0)
    attack = PGD(steps=1, noise_std=0.001)
    attack(recorder, images, digits.labels, ThreatModel())
    [start] = recorder.batches
    inner = (images > 0.01) & (images < 0.99)  # the box cuts the others
    assert (start - images)[inner].std().item() == pytest.approx(1e-3, rel=0.2)


def test_inputs_are_left_alone(digits: Any) -> None:
    images = digits.images[:5].clone().requires_grad_()
    batch = images, digits.labels[:5], ThreatModel()
    result = pgd(digits.net, *batch, stop_when_fooled=True)
    assert torch.equal(images, digits.images[:5])
    assert images.grad is None and not result.requires_grad
    assert result.data_ptr() != images.data_ptr()


def owners(batch: Tensor, images: Tensor, eps: float) -> Tensor:
    """Which of the images each of a batch is a perturbed copy of."""
    distances = torch.cdist(batch.flatten(1), images.flatten(1), p=torch.inf)
    near = distances <= eps + 1e-9
    assert (near.sum(1) == 1).all()
    return near.int().argmax(1)


@pytest.mark.parametrize('restarts', [1, 3])
@pytest.mark.parametrize('random_start', [False, True])
def test_early_stop(digits: Any, random_start: bool, restarts: int) -> None:
    """Attacks each image until it is fooled."""
    images, recorder, steps = digits.images, Recorder(digits.net), 5
    settings = dict(steps=steps, random_start=random_start, restarts=restarts)
    settings |= dict(model=recorder, stop_when_fooled=True)
    result = digits.attack(0.1, **settings)
    wrong_before = digits.fooled(images)
    assert wrong_before.any()
    assert torch.equal(result[wrong_before], images[wrong_before])

    assert len(recorder.batches) == steps * restarts
    left = torch.arange(len(images))[~wrong_before]
    for call, batch in enumerate(recorder.batches):
        found = owners(batch, images, 0.1)
        if call % steps == 0 and call > 0:
            # Between restarts the last step's images are judged too.
            assert set(found.tolist()) <= set(left.tolist())
        else:
            assert found.tolist() == left.tolist()
        with torch.no_grad():
            right = digits.net(batch).argmax(1) == digits.labels[found]
        left = found[right]
    assert wrong_before.sum() < digits.fooled(result).sum() < len(images)


@pytest.mark.parametrize('eps', [0.02, 0.05, 0.1, 0.2])
@LABEL_LOSSES
def test_early_stop_never_helps(digits: Any, loss: str, eps: float) -> None:
    settings: Any = dict(steps=5, loss=loss, random_start=False)
    with_stop = digits.falls(eps, 100, stop_when_fooled=True, **settings)
    without = digits.falls(eps, 100, **settings)
    # What is fooled at the end stays so, or was fooled on the way.
    assert without.any()
    assert (with_stop | ~without).all()


def test_early_stop_ends_when_all_are_fooled(digits: Any) -> None:
    recorder = Recorder(digits.net)
    settings: Any = dict(steps=100, restarts=5, stop_when_fooled=True)
    assert digits.falls(1.0, model=recorder, **settings).all()
    assert len(recorder.batches) < 50


# Few and short steps: it takes luck with the start to fool the network.
HIT_AND_MISS: dict[str, Any] = dict(eps=0.15, steps=1, step_size=0.02)


@pytest.mark.parametrize('loss', ['ce', 'margin', 'kl'])
def test_restarts_keep_the_worst_run(digits: Any, loss: str) -> None:
    net, images, labels, number = digits.net, digits.images, digits.labels, 6
    settings = dict(HIT_AND_MISS, loss=loss)
    draw = torch.Generator().manual_seed(0)
    runs = [digits.attack(generator=draw, **settings) for _ in range(number)]
    worst = digits.attack(restarts=number, **settings)

    each = torch.stack([digits.fooled(run) for run in runs])
    with torch.no_grad():
        logits = torch.stack([net(run) for run in runs])
        clean = net(images).log_softmax(1)
    log_p, others = logits.log_softmax(2), logits.clone()
    own = slice(None), range(len(labels)), labels
    others[own] = -torch.inf
    value = {
        'ce': -log_p[own],
        'margin': others.amax(2) - logits[own],
        'kl': (clean.exp() * (clean - log_p)).sum(2),
    }[loss]
    for k in range(len(images)):
        ranks = list(zip(each[:, k].tolist(), value[:, k].tolist()))
        assert torch.equal(worst[k], runs[ranks.index(max(ranks))][k])
    assert torch.equal(digits.fooled(worst), each.any(0))
    # Else the last run alone would have passed for the worst case.
    assert each.any(0).sum() > each.sum(1).max()


def test_robust_accuracy_never_rises_with_restarts(digits: Any) -> None:
    settings: Any = dict(HIT_AND_MISS, stop_when_fooled=True)
    found = [digits.falls(restarts=n, **settings).sum() for n in (1, 2, 4, 8)]
    assert found == sorted(found)
    assert found[-1] > found[0]


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(steps=0), r'steps=0 .*at least 1'),
        (dict(steps=2.5), r'steps=2\.5 .*whole number'),
        (dict(restarts=0), r'restarts=0 .*at least 1'),
        (dict(compile_mode='fast'), r"compile_mode='fast' is unknown"),
        (dict(loss='dlr'), r"loss='dlr'.*'ce', 'margin', 'kl'"),
        (dict(step_size='8'), r"step_size='8'.*'8/255'"),
        (dict(step_size=2), r"step_size=2 .*'2/255'"),
        (dict(step_size='-1/255'), r"step_size='-1/255'"),
        (dict(step_size=True), r'step_size .*True'),
        (dict(bn_mode='off'), r"bn_mode='off'.*'eval'"),
        (dict(loss='kl', random_start=False), r"'kl'.*random_start=True"),
        (dict(noise_std=0.0), r'noise_std=0\.0 must be .* above 0'),
        (dict(noise_std=2.0), r'noise_std=2\.0'),
        (dict(noise_std=0.1, random_start=False), r'0\.1 is a random start'),
    ],
)
def test_wrong_settings(settings: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        PGD(**settings)


def test_length_of_step() -> None:
    threat_model = ThreatModel('l2', '765/255')
    for size, length in ((None, 0.75), ('510/255', 2.0), (0.5, 0.5)):
        attack = PGD(step_size=size)
        assert attack.length_of_step(threat_model) == length
        attack.step_factor = 0.5
        assert attack.length_of_step(threat_model) == length / 2


@LABEL_LOSSES
def test_one_hot_targets_are_labels(digits: Any, loss: str) -> None:
    labels = digits.labels[:50]
    hard, soft = (
        digits.attack(0.1, 50, target=target, loss=loss, restarts=2)
        for target in (labels, F.one_hot(labels, 10).double())
    )
    assert torch.allclose(hard, soft, rtol=0, atol=1e-9)


@pytest.mark.parametrize('loss', ['ce', 'kl'])
@NORMS
def test_moves_away(digits: Any, norm: str, eps: float, loss: str) -> None:
    """A mixed target, or, whatever the labels, the clean prediction."""
    images, labels = digits.images[:50], digits.labels[:50]
    target = 0.6 * F.one_hot(labels, 10) + 0.4 * F.one_hot((labels + 1) % 10)
    result = digits.attack(eps, 50, norm, target=target.double(), loss=loss)
    draw = torch.Generator().manual_seed(0)
    start = ThreatModel(norm, eps).ball(images).random_start(draw)
    states = (images, start, result)
    with torch.no_grad():
        clean, before, after = (digits.net(x).log_softmax(1) for x in states)
    if loss == 'ce':
        assert ((target * after).sum(1) < (target * clean).sum(1)).all()
        return
    far, near = ((clean.exp() * (clean - x)).sum() for x in (after, before))
    assert far > 10 * near > 0
    assert torch.equal(result, digits.attack(eps, 50, norm, loss='kl'))


@pytest.mark.parametrize(
    'settings',
    [
        {},
        dict(steps=3, step_size='16/255', loss='margin', restarts=2),
        dict(steps=2, noise_std=0.01, bn_mode='batch', full_precision=True),
    ],
)
def test_a_config_gives_the_same_attack(digits: Any, settings: dict) -> None:
    attack = TASK_UTILS.build(dict(type='m2at_mm.PGD', **settings))
    batch = digits.images[:20], digits.labels[:20], ThreatModel(eps=0.1)
    torch.manual_seed(0)
    found = attack(digits.net, *batch, stop_when_fooled=True)
    # With batch statistics no image may leave the batch.
    stop = 'bn_mode' not in settings
    expected = digits.attack(0.1, 20, stop_when_fooled=stop, **settings)
    assert torch.equal(found, expected)
    if not stop:
        with pytest.raises(ValueError, match=r"needs bn_mode='eval'.*'batch'"):
            digits.attack(0.1, stop_when_fooled=True, **settings)


def test_overflowing_logits_end_an_evaluation() -> None:
    class Overflowing(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            total = images.flatten(1).sum(1, keepdim=True)
            return torch.cat([total * torch.inf, -total], 1)

    batch = torch.full((2, 3, 4, 4), 0.5), torch.tensor([0, 0]), ThreatModel()
    with pytest.raises(FloatingPointError, match='not finite'):
        PGD()(Overflowing(), *batch, stop_when_fooled=True)
