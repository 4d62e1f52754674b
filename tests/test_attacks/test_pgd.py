from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2at_mm.attacks import PGD, ThreatModel, pgd
from m2at_mm.registry import TASK_UTILS

EPS = 8 / 255
Attacked = Callable[..., Tensor]
Wrong = Callable[[Tensor], Tensor]
Digits = tuple[Tensor, Tensor]
NORMS = pytest.mark.parametrize('norm, eps', [('linf', 0.05), ('l2', 0.5)])
LABEL_LOSSES = pytest.mark.parametrize('loss', ['ce', 'margin'])


@torch.no_grad()
def fooled(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return net(images).argmax(1) != labels


@pytest.fixture
def wrong(net: nn.Module, digits: Digits) -> Callable[[Tensor], Tensor]:
    """Which of the first digits' adversarial images fool the network."""
    return lambda images: fooled(net, images, digits[1][: len(images)])


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


# A linear model: its worst images are known in closed form.

LINEAR_LABELS = torch.tensor([0, 1, 0, 1, 1])
# +1 where class 1 is the wrong one, as a factor of images.
LINEAR_SIGNS = torch.tensor([[1.0], [-1], [1], [-1], [-1]]).double()


@pytest.fixture
def linear() -> tuple[nn.Module, Tensor, Tensor]:
    """Two classes, the normal w = w_1 - w_0 of the plane between, images."""
    layer = nn.Linear(48, 2).double()
    draw = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        parameter.data.normal_(generator=draw)
    normal = (layer.weight[1] - layer.weight[0]).detach()
    images = torch.rand(5, 3, 4, 4, generator=draw, dtype=torch.float64)
    return nn.Sequential(nn.Flatten(), layer), normal, images


@LABEL_LOSSES
@pytest.mark.parametrize('random_start', [False, True])
@pytest.mark.parametrize('norm, dual', [('linf', 1), ('l2', 2)])
def test_reaches_the_optimum_of_a_linear_model(
    linear: tuple, norm: str, dual: int, random_start: bool, loss: str
) -> None:
    model, normal, images = linear
    images = 0.4 + 0.2 * images  # nowhere near the box
    adversarial = pgd(
        model,
        images,
        LINEAR_LABELS,
        ThreatModel(norm, EPS),
        # A random l2 start turns towards the normal by a fifth a step.
        steps=100 if norm == 'l2' else 10,
        loss=loss,
        random_start=random_start,
    )
    # The margin is +-(w x + b), so it rises by eps times the dual norm of w.
    gain = (LINEAR_SIGNS * (adversarial - images).flatten(1)) @ normal
    expected = EPS * normal.norm(p=dual).item()
    assert gain.tolist() == pytest.approx([expected] * 5, rel=1e-9)


@LABEL_LOSSES
def test_reaches_the_optimum_in_the_box_too(linear: tuple, loss: str) -> None:
    model, normal, images = linear
    images = (1.4 * images - 0.2).clamp(0, 1)  # many at the box, or near
    threat_model = ThreatModel('linf', 0.2)
    adversarial = pgd(model, images, LINEAR_LABELS, threat_model, loss=loss)
    best = images.flatten(1) + 0.2 * LINEAR_SIGNS * normal.sign()
    assert (best < 0).any() and (best > 1).any()
    best = best.clamp(0, 1).view_as(images)
    assert torch.allclose(adversarial, best, rtol=0, atol=1e-15)


@pytest.mark.parametrize('bn_mode', ['eval', 'train', 'batch'])
@LABEL_LOSSES
@NORMS
def test_an_image_is_attacked_as_if_alone(
    net: nn.Module,
    digits: Digits,
    norm: str,
    eps: float,
    loss: str,
    bn_mode: str,
) -> None:
    images, labels = digits[0][:6], digits[1][:6]
    # 'train' leaves a model in eval mode there
    attack = PGD(steps=4, loss=loss, random_start=False, bn_mode=bn_mode)
    together, *alone = (
        attack(net, images[part], labels[part], ThreatModel(norm, eps))
        for part in (slice(None), *(slice(k, k + 1) for k in range(6)))
    )
    assert (together - images).flatten(1).norm(dim=1).min() > eps / 2
    change = (together - torch.cat(alone)).abs().max()
    # Batch statistics tie the images of a batch.
    assert change > 1e-3 if bn_mode == 'batch' else change < 1e-9


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_generator_decides_the_random_start(
    attacked: Attacked, norm: str
) -> None:
    first, again, other = (
        attacked(0.1, 20, norm, steps=2, restarts=2, seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_start_near_the_image(net: nn.Module, digits: Digits) -> None:
    recorder, images = Recorder(net), digits[0]
    torch.manual_seed(0)
    PGD(steps=1, noise_std=0.001)(recorder, *digits, ThreatModel())
    [start] = recorder.batches
    inner = (images > 0.01) & (images < 0.99)  # the box cuts the others
    assert (start - images)[inner].std().item() == pytest.approx(1e-3, rel=0.2)


def test_inputs_are_left_alone(net: nn.Module, digits: Digits) -> None:
    images, labels = digits[0][:5].clone().requires_grad_(), digits[1][:5]
    result = pgd(net, images, labels, ThreatModel(), stop_when_fooled=True)
    assert torch.equal(images, digits[0][:5])
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
def test_early_stop_attacks_an_image_until_it_is_fooled(
    net: nn.Module,
    digits: Digits,
    attacked: Attacked,
    random_start: bool,
    restarts: int,
) -> None:
    (images, labels), recorder, steps = digits, Recorder(net), 5
    result = attacked(
        0.1,
        model=recorder,
        steps=steps,
        random_start=random_start,
        restarts=restarts,
        stop_when_fooled=True,
    )
    wrong_before = fooled(net, images, labels)
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
        left = found[~fooled(net, batch, labels[found])]
    by_result = fooled(net, result, labels)
    assert wrong_before.sum() < by_result.sum() < len(images)


@pytest.mark.parametrize('eps', [0.02, 0.05, 0.1, 0.2])
@LABEL_LOSSES
def test_early_stop_never_raises_the_accuracy(
    wrong: Wrong, attacked: Attacked, loss: str, eps: float
) -> None:
    settings: Any = dict(steps=5, loss=loss, random_start=False)
    with_stop, without = (
        wrong(attacked(eps, 100, stop_when_fooled=stop, **settings))
        for stop in (True, False)
    )
    # What is fooled at the end stays so, or was fooled on the way.
    assert without.any()
    assert (with_stop | ~without).all()


def test_early_stop_ends_when_all_are_fooled(
    net: nn.Module, wrong: Wrong, attacked: Attacked
) -> None:
    recorder = Recorder(net)
    settings: Any = dict(steps=100, restarts=5, stop_when_fooled=True)
    assert wrong(attacked(1.0, model=recorder, **settings)).all()
    assert len(recorder.batches) < 50


# Few and short steps: it takes luck with the start to fool the network.
HIT_AND_MISS: dict[str, Any] = dict(eps=0.15, steps=1, step_size=0.02)


@pytest.mark.parametrize('loss', ['ce', 'margin', 'kl'])
def test_restarts_keep_the_worst_run_of_each_image(
    net: nn.Module, digits: Digits, wrong: Wrong, attacked: Attacked, loss: str
) -> None:
    (images, labels), number = digits, 6
    draw = torch.Generator().manual_seed(0)
    runs = torch.stack(
        [
            attacked(loss=loss, generator=draw, **HIT_AND_MISS)
            for _ in range(number)
        ]
    )
    worst = attacked(loss=loss, restarts=number, **HIT_AND_MISS)

    each = torch.stack([wrong(run) for run in runs])
    with torch.no_grad():
        logits = torch.stack([net(run) for run in runs])
        clean = net(images).log_softmax(1)
    log_p, others = logits.log_softmax(2), logits.clone()
    others[:, range(len(labels)), labels] = -torch.inf
    value = {
        'ce': -log_p[:, range(len(labels)), labels],
        'margin': (others.amax(2) - logits[:, range(len(labels)), labels]),
        'kl': (clean.exp() * (clean - log_p)).sum(2),
    }[loss]
    for k in range(len(images)):
        ranks = list(zip(each[:, k].tolist(), value[:, k].tolist()))
        assert torch.equal(worst[k], runs[ranks.index(max(ranks)), k])
    assert torch.equal(wrong(worst), each.any(0))
    # Else the last run alone would have passed for the worst case.
    assert each.any(0).sum() > each.sum(1).max()


def test_robust_accuracy_never_rises_with_restarts(
    wrong: Wrong, attacked: Attacked
) -> None:
    settings: Any = dict(HIT_AND_MISS, stop_when_fooled=True)
    found = [
        wrong(attacked(restarts=number, **settings)).sum()
        for number in (1, 2, 4, 8)
    ]
    assert found == sorted(found)
    assert found[-1] > found[0]


@LABEL_LOSSES
def test_one_hot_targets_are_labels(
    attacked: Attacked, digits: Digits, loss: str
) -> None:
    labels = digits[1][:50]
    hard, soft = (
        attacked(0.1, 50, target=target, loss=loss, restarts=2)
        for target in (labels, F.one_hot(labels, 10).double())
    )
    assert torch.allclose(hard, soft, rtol=0, atol=1e-9)


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
        (
            dict(noise_std=0.1, random_start=False),
            r'noise_std=0\.1 is a random start',
        ),
    ],
    ids=str,
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


@pytest.mark.parametrize('loss', ['ce', 'kl'])
@NORMS
def test_moves_away_from_what_is_given(
    net: nn.Module,
    digits: Digits,
    attacked: Attacked,
    norm: str,
    eps: float,
    loss: str,
) -> None:
    """A mixed target, or, whatever the labels, the clean prediction."""
    images, labels = digits[0][:50], digits[1][:50]
    target = 0.6 * F.one_hot(labels, 10) + 0.4 * F.one_hot((labels + 1) % 10)
    result = attacked(eps, 50, norm, target=target.double(), loss=loss)
    draw = torch.Generator().manual_seed(0)
    start = ThreatModel(norm, eps).ball(images).random_start(draw)
    with torch.no_grad():
        clean, before, after = (
            net(of).log_softmax(1) for of in (images, start, result)
        )
    if loss == 'ce':
        assert ((target * after).sum(1) < (target * clean).sum(1)).all()
        return
    far, near = ((clean.exp() * (clean - x)).sum() for x in (after, before))
    assert far > 10 * near > 0
    assert torch.equal(result, attacked(eps, 50, norm, loss='kl'))


@pytest.mark.parametrize(
    'settings',
    [
        {},
        dict(steps=3, step_size='16/255', loss='margin', restarts=2),
        dict(steps=2, noise_std=0.01, bn_mode='batch', full_precision=True),
    ],
    ids=['defaults', 'margin', 'batch'],
)
def test_a_config_gives_the_same_attack(
    net: nn.Module, digits: Digits, attacked: Attacked, settings: dict
) -> None:
    attack = TASK_UTILS.build(dict(type='m2at_mm.PGD', **settings))
    batch = digits[0][:20], digits[1][:20], ThreatModel(eps=0.1)
    torch.manual_seed(0)
    found = attack(net, *batch, stop_when_fooled=True)
    # With batch statistics no image may leave the batch.
    stop = 'bn_mode' not in settings
    expected = attacked(0.1, 20, stop_when_fooled=stop, **settings)
    assert torch.equal(found, expected)
    if not stop:
        with pytest.raises(ValueError, match=r"needs bn_mode='eval'.*'batch'"):
            attacked(0.1, stop_when_fooled=True, **settings)


@pytest.mark.parametrize(
    ('model', 'eps'),
    [
        ('robust_model', 8 / 255),
        pytest.param('undefended_model', 0.5 / 255, marks=pytest.mark.slow),
    ],
)
def test_accuracy_is_that_under_foolboxs_pgd(
    model: str,
    eps: float,
    request: pytest.FixtureRequest,
    cifar10_images: Callable[[int], Digits],
) -> None:
    foolbox = pytest.importorskip('foolbox')
    network, step_size = request.getfixturevalue(model), eps / 4
    reference = foolbox.attacks.LinfPGD(
        steps=10, abs_stepsize=step_size, random_start=True
    )
    wrapped = foolbox.PyTorchModel(network, bounds=(0, 1))
    torch.manual_seed(0)
    attack, threat_model = PGD(10, step_size), ThreatModel('linf', eps)
    correct = torch.zeros(3)
    for part, target in zip(*(of.split(50) for of in cifar10_images(200))):
        ours = attack(network, part, target, threat_model)
        _, theirs, _ = reference(wrapped, part, target, epsilons=eps)
        for k, candidates in enumerate((part, ours, theirs)):
            correct[k] += (~fooled(network, candidates, target)).sum()
    clean, ours, theirs = (100 * correct / 200).tolist()
    assert 20 < theirs < clean - 20
    assert ours == pytest.approx(theirs, abs=1.5)


def test_overflowing_logits_end_an_evaluation() -> None:
    class Overflowing(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            total = images.flatten(1).sum(1, keepdim=True)
            return torch.cat([total * torch.inf, -total], 1)

    batch = torch.full((2, 3, 4, 4), 0.5), torch.tensor([0, 0]), ThreatModel()
    with pytest.raises(FloatingPointError, match='not finite'):
        PGD()(Overflowing(), *batch, stop_when_fooled=True)
