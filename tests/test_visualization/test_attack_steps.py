from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import build_adversarial
from torch import Tensor

from m2at_mm.attacks import pgd
from m2at_mm.visualization import (
    AttackSteps,
    draw_attack_steps,
    draw_step_frames,
)

N, K, STEPS = 3, 10, 4
NAMES = [f'digit-{k}' for k in range(K)]
Batch = tuple[Tensor, Tensor]


def tiny_model(norm: str = 'linf', **attack: Any) -> Any:
    settings = dict(type='m2at_mm.PGD', steps=STEPS) | attack
    return build_adversarial(
        threat_model=dict(norm=norm, eps='32/255'), train_attack=settings
    ).eval()


@pytest.mark.parametrize('norm', ['linf', 'l2'])
@pytest.mark.parametrize('bn_mode', ['eval', 'batch'])
def test_the_path_from_clean_to_the_attack(
    digits: Batch, norm: str, bn_mode: str
) -> None:
    model = tiny_model(norm, bn_mode=bn_mode)
    torch.manual_seed(3)
    path = AttackSteps.of(model, *digits)
    assert path.num_steps == STEPS
    assert path.images.shape == (STEPS + 1, N, 3, 32, 32)
    assert torch.equal(path.images[0], digits[0])
    ball = model.threat_model.ball(digits[0])
    for one in path.images:
        assert ball.contains(one).all()
    assert torch.equal(path.labels, digits[1])
    for steps in (1, STEPS):
        expected = pgd(
            model,
            *digits,
            model.threat_model,
            steps=steps,
            bn_mode=bn_mode,
            generator=torch.Generator().manual_seed(3),
        )
        assert torch.equal(path.images[steps], expected)
    # The attack of the model is as it was.
    assert model.train_attack.steps == STEPS


def test_each_step_goes_on_from_the_one_before(digits: Batch) -> None:
    """The next state is the sign of a gradient that is computed here."""
    model = tiny_model(step_size='4/255')
    path = AttackSteps.of(model, *digits)
    for before, after in zip(path.images[1:], path.images[2:]):
        images = before.clone().requires_grad_(True)
        F.cross_entropy(model(images), digits[1]).backward()
        step = before + 4 / 255 * images.grad.sign()
        low, high = digits[0] - 32 / 255, digits[0] + 32 / 255
        expected = step.clamp(low, high).clamp(0, 1)
        # Folded batch norms round otherwise: a sign may flip near zero.
        right = (after - expected).abs() < 1e-6
        assert right.float().mean() > 0.999


@pytest.mark.parametrize('loss', ['ce', 'margin', 'kl'])
def test_loss_and_prediction_are_those_of_the_state(
    digits: Batch, loss: str
) -> None:
    model = tiny_model(loss=loss)
    path = AttackSteps.of(model, *digits)
    with torch.no_grad():
        logits = [model(one) for one in path.images]
    scores = [one.softmax(1) for one in logits]
    assert torch.allclose(path.scores, torch.stack(scores), atol=1e-6)
    label = digits[1].unsqueeze(1)
    for step in range(STEPS + 1):
        own = logits[step].gather(1, label)[:, 0]
        if loss == 'ce':
            expected = -scores[step].gather(1, label)[:, 0].log()
        elif loss == 'margin':
            others = logits[step].scatter(1, label, -torch.inf).amax(1)
            expected = others - own
        else:
            ratio = (scores[0] / scores[step]).log()
            expected = (scores[0] * ratio).sum(1)
        assert torch.allclose(path.losses[step], expected, atol=1e-5)
    assert (path.losses[-1] > path.losses[0]).all()


@pytest.mark.parametrize(
    'attack', [dict(type='m2at_mm.FGSM'), dict(type='m2at_mm.NFGSM')]
)
def test_attacks_of_one_step(digits: Batch, attack: dict) -> None:
    model = build_adversarial(train_attack=attack).eval()
    torch.manual_seed(0)
    path = AttackSteps.of(model, *digits)
    assert path.num_steps == 1
    torch.manual_seed(0)
    expected = model.train_attack(model, *digits, model.threat_model)
    assert torch.equal(path.images[1], expected)
    assert len(draw_step_frames(path)) == 2


def test_no_attack() -> None:
    model = build_adversarial(
        method=dict(type='m2at_mm.Standard'), train_attack=None
    )
    with pytest.raises(ValueError, match='train_attack=None has no steps'):
        AttackSteps.of(model, torch.zeros(1, 3, 32, 32), torch.zeros(1).long())


def known(path: AttackSteps) -> AttackSteps:
    """The same with predictions that are known."""
    path.scores = torch.eye(K)[path.labels].repeat(STEPS + 1, 1, 1)
    path.scores[2:, 1] = torch.eye(K)[8]
    return path


def shown(axis: Any) -> Tensor:
    return torch.as_tensor(axis.images[0].get_array()).permute(2, 0, 1)


def test_strip(digits: Batch) -> None:
    path = known(AttackSteps.of(tiny_model(), *digits))
    figure = draw_attack_steps(path, NAMES, note='a note')
    assert len(figure.axes) == 2 * N * (STEPS + 1)
    assert 'PGD' in figure.get_suptitle() and 'a note' in figure.get_suptitle()
    for row in range(N):
        for step in range(STEPS + 1):
            place = 2 * row * (STEPS + 1) + step
            image, change = figure.axes[place], figure.axes[place + STEPS + 1]
            assert torch.equal(shown(image), path.images[step, row])
            expected = path.images[step, row] - digits[0][row]
            expected = 0.5 + expected / (2 * 32 / 255)
            assert torch.allclose(shown(change), expected, atol=1e-6)
            wrong = row == 1 and step >= 2
            name = 'digit-8' if wrong else f'digit-{row + 3}'
            lines = change.get_xlabel().splitlines()
            assert lines[0] == f'loss {path.losses[step, row]:.2f}'
            assert lines[1] == f'{name} 100 %'
            assert lines[2:] == (['wrong'] if wrong else [])
    assert figure.axes[0].get_title() == 'clean'
    assert figure.axes[STEPS].get_title() == f'step {STEPS}'
    assert figure.axes[0].get_ylabel() == 'label: digit-3'


@pytest.mark.parametrize('steps', [10, 11, 20])
def test_a_long_path_is_shown_in_parts(digits: Batch, steps: int) -> None:
    images, labels = digits
    model = tiny_model(steps=steps, step_size='1/255')
    path = AttackSteps.of(model, images[:1], labels[:1])
    figure = draw_attack_steps(path)
    titles = [axis.get_title() for axis in figure.axes[:11]]
    assert len(figure.axes) == 22 and len(set(titles)) == 11
    assert titles[0] == 'clean' and titles[-1] == f'step {steps}'


def test_frames(digits: Batch) -> None:
    path = known(AttackSteps.of(tiny_model(), *digits))
    frames = draw_step_frames(path, NAMES)
    assert len(frames) == STEPS + 1
    assert len({tuple(frame.get_size_inches()) for frame in frames}) == 1
    for step, frame in enumerate(frames):
        for column in range(N):
            state = frame.axes[column]
            assert torch.equal(shown(state), path.images[step, column])
            assert state.get_title() == f'digit-{column + 3}'
    assert frames[0].get_suptitle().endswith('\nclean')
    assert frames[2].get_suptitle().endswith(f'\nstep 2 of {STEPS}')
