from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import TASK_UTILS as ROOT_TASK_UTILS
from mmengine.registry import DefaultScope
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from m2at_mm.attacks import (
    FGSM,
    NFGSM,
    PGD,
    AutoAttack,
    ThreatModel,
    pgd,
)
from m2at_mm.attacks.context import BN_MODES

EPS = 8 / 255
CifarImages = Callable[[int], tuple[Tensor, Tensor]]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# A small real network on real images, in double precision: what two ways of
# computing agree in does not hang on rounding.


def load(part: slice) -> tuple[Tensor, Tensor]:
    """Some of scikit-learn's digits, shape (N, 1, 8, 8), and labels."""
    data = load_digits()
    images = torch.from_numpy(data.images[part]).unsqueeze(1) / 16
    return images, torch.from_numpy(data.target[part]).long()


@pytest.fixture(scope='module')
def digits() -> tuple[Tensor, Tensor]:
    """300 digits that the network was not trained on."""
    return load(slice(1400, 1700))


@pytest.fixture(scope='module')
def net() -> nn.Module:
    """A digits classifier in eval mode, trained on clean images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 10),
        ).double()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    images, labels = load(slice(400))
    for _ in range(25):
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return net.eval()


@torch.no_grad()
def fooled(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return net(images).argmax(1) != labels


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


def linear_model() -> tuple[nn.Module, Tensor]:
    """Two classes, and the normal w = w_1 - w_0 of the plane between."""
    linear = nn.Linear(48, 2).double()
    draw = seeded()
    for parameter in linear.parameters():
        parameter.data.normal_(generator=draw)
    normal = (linear.weight[1] - linear.weight[0]).detach()
    return nn.Sequential(nn.Flatten(), linear), normal


@pytest.mark.parametrize('loss', ['ce', 'margin'])
@pytest.mark.parametrize('random_start', [False, True])
@pytest.mark.parametrize('norm, dual', [('linf', 1), ('l2', 2)])
def test_reaches_the_optimum_of_a_linear_model(
    norm: str, dual: int, random_start: bool, loss: str
) -> None:
    model, normal = linear_model()
    shape = (5, 3, 4, 4)
    images = torch.rand(shape, generator=seeded(1), dtype=torch.float64)
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
    change = (adversarial - images).flatten(1)
    gain = (LINEAR_SIGNS * change) @ normal
    assert gain.tolist() == pytest.approx(
        [EPS * normal.norm(p=dual).item()] * 5, rel=1e-9
    )


@pytest.mark.parametrize('loss', ['ce', 'margin'])
def test_reaches_the_optimum_in_the_box_too(loss: str) -> None:
    model, normal = linear_model()
    shape = (5, 3, 4, 4)
    images = torch.rand(shape, generator=seeded(1), dtype=torch.float64)
    images = (1.4 * images - 0.2).clamp(0, 1)  # many at the box, or near

    adversarial = pgd(
        model, images, LINEAR_LABELS, ThreatModel('linf', 0.2), loss=loss
    )

    best = images.flatten(1) + 0.2 * LINEAR_SIGNS * normal.sign()
    assert (best < 0).any() and (best > 1).any()
    best = best.clamp(0, 1).view(shape)
    assert torch.allclose(adversarial, best, rtol=0, atol=1e-15)


@pytest.mark.parametrize('bn_mode', ['eval', 'train'])
@pytest.mark.parametrize('loss', ['ce', 'margin'])
@pytest.mark.parametrize('norm, eps', [('linf', 0.05), ('l2', 0.5)])
def test_an_image_is_attacked_as_if_alone(
    net: nn.Module,
    digits: tuple[Tensor, Tensor],
    norm: str,
    eps: float,
    loss: str,
    bn_mode: str,
) -> None:
    images, labels = digits[0][:6], digits[1][:6]

    def attack(part: slice) -> Tensor:
        return pgd(
            net,
            images[part],
            labels[part],
            ThreatModel(norm, eps),
            steps=4,
            loss=loss,
            random_start=False,
            bn_mode=bn_mode,  # 'train' leaves a model in eval mode there
        )

    together = attack(slice(None))
    alone = torch.cat([attack(slice(k, k + 1)) for k in range(6)])

    assert (together - images).flatten(1).norm(dim=1).min() > eps / 2
    assert torch.allclose(together, alone, rtol=0, atol=1e-9)


def test_batch_statistics_tie_the_images_of_a_batch(
    net: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    images, labels = digits[0][:6], digits[1][:6]
    together, alone = (
        pgd(
            net,
            images[:number],
            labels[:number],
            ThreatModel('linf', 0.05),
            random_start=False,
            bn_mode='batch',
        )
        for number in (6, 1)
    )

    assert not torch.allclose(together[:1], alone, rtol=0, atol=1e-3)


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_generator_decides_the_random_start(
    net: nn.Module, digits: tuple[Tensor, Tensor], norm: str
) -> None:
    images, labels = digits[0][:20], digits[1][:20]
    first, again, other = (
        pgd(
            net,
            images,
            labels,
            ThreatModel(norm, 0.1),
            steps=2,
            restarts=2,
            generator=seeded(seed),
        )
        for seed in (0, 0, 1)
    )

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_inputs_are_left_alone(
    net: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
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
    digits: tuple[Tensor, Tensor],
    random_start: bool,
    restarts: int,
) -> None:
    images, labels = digits
    recorder, steps = Recorder(net), 5
    result = pgd(
        recorder,
        images,
        labels,
        ThreatModel('linf', 0.1),
        steps=steps,
        random_start=random_start,
        restarts=restarts,
        stop_when_fooled=True,
        generator=seeded(),
    )

    wrong_before = fooled(net, images, labels)
    assert wrong_before.any()
    assert torch.equal(result[wrong_before], images[wrong_before])

    assert len(recorder.batches) == steps * restarts
    left = torch.arange(len(images))[~wrong_before]
    for call, batch in enumerate(recorder.batches):
        attacked = owners(batch, images, 0.1)
        if call % steps == 0 and call > 0:
            # Between restarts the last step's images are judged too.
            assert set(attacked.tolist()) <= set(left.tolist())
        else:
            assert attacked.tolist() == left.tolist()
        left = attacked[~fooled(net, batch, labels[attacked])]

    fooled_by_result = fooled(net, result, labels)
    assert fooled_by_result.sum() > wrong_before.sum()
    assert not fooled_by_result.all()


@pytest.mark.parametrize('eps', [0.02, 0.05, 0.1, 0.2])
@pytest.mark.parametrize('loss', ['ce', 'margin'])
def test_early_stop_never_raises_the_accuracy(
    net: nn.Module, digits: tuple[Tensor, Tensor], loss: str, eps: float
) -> None:
    images, labels = digits[0][:100], digits[1][:100]
    with_stop, without = (
        fooled(
            net,
            pgd(
                net,
                images,
                labels,
                ThreatModel('linf', eps),
                steps=5,
                loss=loss,
                random_start=False,
                stop_when_fooled=stop,
            ),
            labels,
        )
        for stop in (True, False)
    )

    # What is fooled at the end stays so, or was fooled on the way.
    assert without.any()
    assert (with_stop | ~without).all()


def test_early_stop_ends_when_all_are_fooled(
    net: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    recorder = Recorder(net)
    result = pgd(
        recorder,
        *digits,
        ThreatModel('linf', 1.0),
        steps=100,
        restarts=5,
        stop_when_fooled=True,
    )

    assert fooled(net, result, digits[1]).all()
    assert len(recorder.batches) < 50


# Few and short steps: it takes luck with the start to fool the network.
HIT_AND_MISS: dict[str, Any] = dict(steps=1, step_size=0.02)
HIT_AND_MISS_MODEL = ThreatModel('linf', 0.15)


@pytest.mark.parametrize('loss', ['ce', 'margin', 'kl'])
def test_restarts_keep_the_worst_run_of_each_image(
    net: nn.Module, digits: tuple[Tensor, Tensor], loss: str
) -> None:
    images, labels = digits
    number = 6
    draw = seeded()
    runs = [
        pgd(
            net,
            images,
            labels,
            HIT_AND_MISS_MODEL,
            loss=loss,
            generator=draw,
            **HIT_AND_MISS,
        )
        for _ in range(number)
    ]

    worst = pgd(
        net,
        images,
        labels,
        HIT_AND_MISS_MODEL,
        loss=loss,
        generator=seeded(),
        restarts=number,
        **HIT_AND_MISS,
    )

    for k in range(len(images)):
        ranks = []
        for run in runs:
            with torch.no_grad():
                logits = net(run[k : k + 1])
                clean = net(images[k : k + 1]).log_softmax(1)
            wrong = int(logits.argmax()) != int(labels[k])
            log_p = logits.log_softmax(1)[0]
            others = [j for j in range(10) if j != labels[k]]
            value = {
                'ce': -log_p[labels[k]],
                'margin': logits[0, others].max() - logits[0, labels[k]],
                'kl': (clean.exp() * (clean - log_p)).sum(),
            }[loss]
            ranks.append((wrong, value.item()))
        best = max(range(number), key=ranks.__getitem__)
        assert torch.equal(worst[k], runs[best][k])

    each = torch.stack([fooled(net, run, labels) for run in runs])
    assert torch.equal(fooled(net, worst, labels), each.any(0))
    # Else the last run alone would have passed for the worst case.
    assert each.any(0).sum() > each.sum(1).max()


@pytest.mark.parametrize('stop', [False, True], ids=['all', 'until-fooled'])
def test_robust_accuracy_never_rises_with_restarts(
    net: nn.Module, digits: tuple[Tensor, Tensor], stop: bool
) -> None:
    images, labels = digits
    accuracies = []
    for restarts in (1, 2, 4, 8):
        result = pgd(
            net,
            images,
            labels,
            HIT_AND_MISS_MODEL,
            generator=seeded(),
            restarts=restarts,
            stop_when_fooled=stop,
            **HIT_AND_MISS,
        )
        wrong = fooled(net, result, labels)
        accuracies.append(1 - wrong.double().mean().item())

    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[-1] < accuracies[0]


@pytest.mark.parametrize('loss', ['ce', 'margin'])
def test_one_hot_targets_are_labels(
    net: nn.Module, digits: tuple[Tensor, Tensor], loss: str
) -> None:
    images, labels = digits[0][:50], digits[1][:50]
    hard, soft = (
        pgd(
            net,
            images,
            target,
            ThreatModel('linf', 0.1),
            loss=loss,
            restarts=2,
            generator=seeded(),
        )
        for target in (labels, F.one_hot(labels, 10).double())
    )

    assert torch.allclose(hard, soft, rtol=0, atol=1e-9)


def test_mixed_targets_are_moved_away_from(
    net: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    images, labels = digits[0][:50], digits[1][:50]
    mixed = 0.6 * F.one_hot(labels, 10) + 0.4 * F.one_hot((labels + 1) % 10)
    result = pgd(net, images, mixed.double(), ThreatModel('linf', 0.1))

    with torch.no_grad():
        before, after = (net(x).log_softmax(1) for x in (images, result))
    assert ((-mixed * after).sum(1) > (-mixed * before).sum(1)).all()


@pytest.mark.parametrize('norm, eps', [('linf', 0.1), ('l2', 0.5)])
def test_kl_moves_away_from_the_clean_prediction(
    net: nn.Module, digits: tuple[Tensor, Tensor], norm: str, eps: float
) -> None:
    images, labels = digits[0][:50], digits[1][:50]

    def divergence(of: Tensor) -> float:
        with torch.no_grad():
            clean = net(images).log_softmax(1)
            other = net(of).log_softmax(1)
        return (clean.exp() * (clean - other)).sum(1).mean().item()

    threat_model = ThreatModel(norm, eps)
    start = threat_model.ball(images).random_start(seeded())
    result = pgd(
        net, images, labels, threat_model, loss='kl', generator=seeded()
    )

    assert divergence(result) > 10 * divergence(start) > 0
    # The labels play no part in it.
    other = pgd(
        net, images, 9 - labels, threat_model, loss='kl', generator=seeded()
    )
    assert torch.equal(result, other)


class ReturnsTuple(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (images.flatten(1),)


class ReturnsMaps(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images


class Checkpointed(nn.Module):
    def __init__(self, net: nn.Module, use_reentrant: bool) -> None:
        super().__init__()
        self.net = net
        self.use_reentrant = use_reentrant

    def forward(self, images: Tensor) -> Tensor:
        return checkpoint(self.net, images, use_reentrant=self.use_reentrant)


@pytest.mark.parametrize(
    'changes, error, message',
    [
        (dict(steps=0), ValueError, r'steps=0 .*at least 1'),
        (dict(steps=2.5), ValueError, r'steps=2\.5 .*whole number'),
        (dict(restarts=0), ValueError, r'restarts=0 .*at least 1'),
        (
            dict(compile_mode='fast'),
            ValueError,
            r"compile_mode='fast' is unknown",
        ),
        (dict(loss='dlr'), ValueError, r"loss='dlr'.*'ce', 'kl', 'margin'"),
        (dict(step_size='8'), ValueError, r"step_size='8'.*'8/255'"),
        (dict(step_size=2), ValueError, r"step_size=2 .*'2/255'"),
        (dict(step_size='-1/255'), ValueError, r"step_size='-1/255'"),
        (dict(step_size=True), TypeError, r'step_size .*True'),
        (dict(bn_mode='off'), ValueError, r"bn_mode='off'.*'eval'"),
        (
            dict(loss='kl', random_start=False),
            ValueError,
            r"loss='kl'.*random_start=True",
        ),
        (
            dict(stop_when_fooled=True, bn_mode='batch'),
            ValueError,
            r"stop_when_fooled=True needs bn_mode='eval'.*'batch'",
        ),
        (
            dict(images=torch.rand(2, 1, 8, 8) * 255),
            ValueError,
            r'images must be in \[0, 1\].*divide 0-255 values by 255',
        ),
        (
            dict(images=torch.rand(2, 1, 8, 8) - 0.5),
            ValueError,
            r'images must be in \[0, 1\].*-0\.',
        ),
        (
            dict(images=torch.full((2, 1, 8, 8), torch.nan)),
            ValueError,
            r'images must be in \[0, 1\]',
        ),
        (
            dict(images=torch.ones(2, 1, 8, 8, dtype=torch.uint8)),
            TypeError,
            r'images must be floats.*torch\.uint8',
        ),
        (
            dict(images=torch.rand(1, 8, 8)),
            TypeError,
            r'\(N, C, H, W\).*\(1, 8, 8\)',
        ),
        (
            dict(model=ReturnsTuple()),
            TypeError,
            r'ReturnsTuple returned a tuple',
        ),
        (
            dict(model=ReturnsMaps()),
            TypeError,
            r'ReturnsMaps returned a tensor of shape \(2, 1, 8, 8\)',
        ),
    ],
    ids=lambda value: '-'.join(value) if isinstance(value, dict) else '',
)
def test_refuses(
    net: nn.Module,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    arguments: dict[str, Any] = dict(
        model=net,
        images=torch.rand(2, 1, 8, 8, dtype=torch.float64),
        target=torch.tensor([0, 1]),
        threat_model=ThreatModel(),
    )
    with pytest.raises(error, match=message):
        pgd(**{**arguments, **changes})


@pytest.mark.parametrize(
    'settings',
    [
        dict(steps=0),
        dict(restarts=0),
        dict(loss='dlr'),
        dict(step_size='8'),
        dict(bn_mode='off'),
        dict(loss='kl', random_start=False),
    ],
    ids='-'.join,
)
def test_settings_are_checked_when_they_are_built(
    settings: dict[str, Any],
) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        PGD(**settings)


def test_fgsm_refuses_kl() -> None:
    with pytest.raises(ValueError, match=r"loss='kl'.*'ce' or 'margin'"):
        FGSM(loss='kl')


def test_reentrant_checkpointing_says_what_to_do(
    net: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    images, labels = digits[0][:4], digits[1][:4]
    with pytest.raises(
        RuntimeError, match=r'by that name.*use_reentrant=False'
    ):
        pgd(Checkpointed(net, True), images, labels, ThreatModel())

    expected, result = (
        pgd(model, images, labels, ThreatModel(), generator=seeded())
        for model in (net, Checkpointed(net, False))
    )
    assert torch.equal(expected, result)


def test_other_errors_of_a_model_are_not_explained_away(
    digits: tuple[Tensor, Tensor],
) -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.detach().flatten(1)

    with pytest.raises(RuntimeError, match='does not require grad'):
        pgd(Broken(), digits[0][:4], digits[1][:4], ThreatModel())


def test_fgsm_is_one_signed_step(
    net: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    images, labels = digits[0].clone().requires_grad_(), digits[1]
    F.cross_entropy(net(images), labels).backward()
    net.zero_grad()
    expected = (images + EPS * images.grad.sign()).clamp(0, 1)

    result = FGSM()(net, digits[0], labels, ThreatModel('linf', EPS))

    assert torch.allclose(result, expected, rtol=0, atol=1e-15)


def test_fgsm_follows_the_radius_it_is_given() -> None:
    model, normal = linear_model()
    images = torch.full((5, 3, 4, 4), 0.5, dtype=torch.float64)
    attack = FGSM('margin')
    for eps in (0.0, 0.1, 0.3):
        result = attack(model, images, LINEAR_LABELS, ThreatModel('linf', eps))
        change = (result - images).flatten(1)
        best = eps * LINEAR_SIGNS * normal.sign()
        assert torch.allclose(change, best, rtol=0, atol=1e-15)


def test_fgsm_under_an_l2_radius_above_1() -> None:
    model, _ = linear_model()
    images = torch.full((5, 3, 4, 4), 0.5, dtype=torch.float64)
    threat_model = ThreatModel('l2', '300/255')
    result = FGSM()(model, images, LINEAR_LABELS, threat_model)

    # A step of the radius; some of its pixels stop at the box.
    change = (result - images).flatten(1).norm(dim=1)
    assert ((change > 1) & (change <= 300 / 255)).all()


SETTINGS: dict[str, Any] = dict(
    steps=3,
    step_size='1/255',
    loss='margin',
    random_start=True,
    noise_std=0.01,
    restarts=2,
    bn_mode='batch',
    full_precision=True,
    compile_mode='default',
)
CHECKED = dict(check_range=True)


@pytest.mark.parametrize(
    'settings, stop, expected',
    [
        (
            {},
            False,
            dict(
                steps=10,
                step_size=None,
                loss='ce',
                random_start=True,
                noise_std=None,
                restarts=1,
                bn_mode='eval',
                full_precision=False,
                compile_mode=None,
                check_range=True,
                stop_when_fooled=False,
            ),
        ),
        (SETTINGS, False, dict(SETTINGS, **CHECKED, stop_when_fooled=False)),
        # With batch statistics no image may leave the batch.
        (SETTINGS, True, dict(SETTINGS, **CHECKED, stop_when_fooled=False)),
        (
            dict(SETTINGS, bn_mode='eval'),
            True,
            dict(SETTINGS, **CHECKED, bn_mode='eval', stop_when_fooled=True),
        ),
    ],
    ids=['defaults', 'all', 'stop-refused', 'stop'],
)
def test_built_from_a_config_passes_every_setting(
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    stop: bool,
    expected: dict[str, Any],
) -> None:
    calls = []

    def spy(*args: Any, **kwargs: Any) -> str:
        calls.append((args, kwargs))
        return 'adversarial'

    # The package's attribute of this name is the function.
    module = importlib.import_module('m2at_mm.attacks.settings')
    monkeypatch.setattr(module, 'pgd', spy)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        attack = ROOT_TASK_UTILS.build(dict(type='m2at_mm.PGD', **settings))

    result = attack('model', 'images', 'target', 'threat', stop)

    assert isinstance(attack, PGD)
    assert result == 'adversarial'
    assert calls == [(('model', 'images', 'target', 'threat'), expected)]


def test_fgsm_is_built_from_a_config() -> None:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        attack = ROOT_TASK_UTILS.build(
            dict(type='m2at_mm.FGSM', loss='margin', bn_mode='batch')
        )

    assert isinstance(attack, FGSM)
    assert (attack.loss, attack.bn_mode) == ('margin', 'batch')
    assert (attack.steps, attack.random_start) == (1, False)


@pytest.mark.parametrize('bn_mode', BN_MODES)
@pytest.mark.parametrize(
    'attack',
    [
        pytest.param((FGSM, dict()), id='fgsm'),
        pytest.param((FGSM, dict(loss='margin')), id='fgsm-margin'),
        pytest.param((PGD, dict(steps=3)), id='pgd-ce'),
        pytest.param((PGD, dict(steps=3, loss='margin')), id='pgd-margin'),
        pytest.param((PGD, dict(steps=3, loss='kl')), id='pgd-kl'),
        pytest.param((PGD, dict(steps=3, restarts=2)), id='pgd-restarts'),
        pytest.param(
            (PGD, dict(steps=2, random_start=False, step_size='16/255')),
            id='pgd-long-steps',
        ),
    ],
)
@pytest.mark.parametrize('norm, eps', [('linf', EPS), ('l2', 128 / 255)])
def test_every_attack_is_inside_ball_and_box_exactly(
    net: nn.Module,
    digits: tuple[Tensor, Tensor],
    norm: str,
    eps: float,
    attack: tuple[type[PGD], dict[str, Any]],
    bn_mode: str,
) -> None:
    kind, settings = attack
    state = {name: value.clone() for name, value in net.state_dict().items()}
    images = digits[0][:40].float()
    single = nn.Sequential(*net).float()
    single.train(bn_mode != 'eval')
    try:
        result = kind(bn_mode=bn_mode, **settings)(
            single, images, digits[1][:40], ThreatModel(norm, eps)
        )
    finally:
        net.double().eval().load_state_dict(state)

    assert result.dtype == images.dtype and result.shape == images.shape
    assert result.min() >= 0 and result.max() <= 1
    change = (result - images).flatten(1)
    exact = (result.double() - images.double()).flatten(1)
    for difference in (change, exact):
        sizes = (
            difference.abs().amax(1)
            if norm == 'linf'
            else difference.norm(dim=1)
        )
        assert sizes.max().item() <= eps
        # Digits are half black: the box lets no perturbation shrink to 0.
        assert sizes.min().item() > eps / 10


def compare_with_foolbox(
    model: nn.Module, images: Tensor, labels: Tensor, eps: float
) -> tuple[float, float, float]:
    """Accuracies in per cent: clean, under our PGD-20, under foolbox's."""
    foolbox = pytest.importorskip('foolbox')
    step_size = eps / 4
    reference = foolbox.attacks.LinfPGD(
        steps=20, abs_stepsize=step_size, random_start=True
    )
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    torch.manual_seed(0)
    correct = torch.zeros(3)
    for part, target in zip(images.split(50), labels.split(50)):
        ours = pgd(
            model,
            part,
            target,
            ThreatModel('linf', eps),
            steps=20,
            step_size=step_size,
        )
        _, theirs, _ = reference(wrapped, part, target, epsilons=eps)
        for k, candidates in enumerate((part, ours, theirs)):
            correct[k] += (~fooled(model, candidates, target)).sum()
    clean, ours, theirs = (100 * correct / len(images)).tolist()
    print(f'clean {clean:.1f}, ours {ours:.1f}, foolbox {theirs:.1f}')
    return clean, ours, theirs


def test_agrees_with_foolbox_on_a_robust_model(
    robust_model: nn.Module, cifar10_images: CifarImages
) -> None:
    clean, ours, theirs = compare_with_foolbox(
        robust_model, *cifar10_images(200), eps=8 / 255
    )

    assert 20 < theirs < clean - 20
    assert ours == pytest.approx(theirs, abs=1.5)


@pytest.mark.slow
def test_agrees_with_foolbox_on_an_undefended_model(
    undefended_model: nn.Module, cifar10_images: CifarImages
) -> None:
    clean, ours, theirs = compare_with_foolbox(
        undefended_model, *cifar10_images(200), eps=0.5 / 255
    )

    assert 20 < theirs < clean - 20
    assert ours == pytest.approx(theirs, abs=1.5)


def test_undefended_model_is_defenceless(
    undefended_model: nn.Module, cifar10_images: CifarImages
) -> None:
    images, labels = cifar10_images(20)
    result = pgd(
        undefended_model,
        images,
        labels,
        ThreatModel('linf', 8 / 255),
        steps=20,
        stop_when_fooled=True,
    )

    assert fooled(undefended_model, images, labels).sum() <= 6
    assert fooled(undefended_model, result, labels).all()


def test_overflowing_logits_end_an_evaluation() -> None:
    class Overflowing(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            total = images.flatten(1).sum(1, keepdim=True)
            return torch.cat([total * torch.inf, -total], 1)

    images = torch.full((2, 3, 4, 4), 0.5)
    labels = torch.zeros(2, dtype=torch.long)
    with pytest.raises(FloatingPointError, match='not finite'):
        pgd(
            Overflowing(), images, labels, ThreatModel(), stop_when_fooled=True
        )


def test_settings_check_the_range_unless_told_otherwise(
    net: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    images, labels = digits
    with pytest.raises(ValueError, match=r'must be in \[0, 1\]'):
        PGD(steps=1)(net, 255 * images, labels, ThreatModel())
    PGD(steps=1)(net, images, labels, ThreatModel(), check_range=False)


@pytest.mark.parametrize(
    'attack',
    [PGD(steps=2), PGD(steps=2, loss='kl'), FGSM(), NFGSM(), AutoAttack()],
    ids=['pgd', 'kl', 'fgsm', 'n-fgsm', 'autoattack'],
)
@pytest.mark.parametrize('stop', [False, True], ids=['all', 'until-fooled'])
@pytest.mark.parametrize(
    ('target', 'message'),
    [
        (torch.zeros(4, 1).long(), r'int64 of shape \(4, 1\)'),
        (torch.zeros(4), r'float32 of shape \(4,\)'),
        (torch.full((4, 3), 1 / 3), '3 classes, but the model has 5'),
    ],
    ids=['column', 'float', 'other classes'],
)
def test_every_attack_refuses_a_wrong_target(
    attack: PGD, stop: bool, target: Tensor, message: str
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    images = torch.rand(4, 3, 4, 4)
    with pytest.raises((TypeError, ValueError), match=message):
        attack(model, images, target, ThreatModel(), stop_when_fooled=stop)


@pytest.mark.parametrize('norm', ['linf', 'l2'])
@pytest.mark.parametrize(
    'attack',
    [
        PGD(steps=2),
        PGD(steps=2, loss='kl', noise_std=0.01),
        FGSM(random_start=True),
        AutoAttack(['apgd-ce']),
        AutoAttack(['fab-t']),
    ],
    ids=['pgd', 'noise', 'fgsm', 'apgd-ce', 'fab-t'],
)
def test_at_radius_0_the_images_stay(attack: PGD, norm: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    images = torch.rand(4, 3, 4, 4)
    labels = model(images).argmax(1)
    adversarial = attack(model, images, labels, ThreatModel(norm, 0))
    assert torch.equal(adversarial, images)
