from __future__ import annotations

from typing import Any

import pytest
import torch
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
    assert path.images.shape == (STEPS + 1, N, 3, 32, 32)
    assert torch.equal(path.images[0], digits[0])
    assert torch.equal(path.labels, digits[1])
    for steps in range(1, STEPS + 1):
        draws = torch.Generator().manual_seed(3)
        options = dict(steps=steps, bn_mode=bn_mode, generator=draws)
        expected = pgd(model, *digits, model.threat_model, **options)
        assert torch.equal(path.images[steps], expected)
    # The attack of the model is as it was.
    assert model.train_attack.steps == STEPS


@pytest.mark.parametrize('loss', ['ce', 'margin', 'kl'])
def test_loss_and_prediction_are_those_of_the_state(
    digits: Batch, loss: str
) -> None:
    model = tiny_model(loss=loss)
    path = AttackSteps.of(model, *digits)
    with torch.no_grad():
        logits = torch.stack([model(one) for one in path.images])
    scores = logits.softmax(2)
    assert torch.allclose(path.scores, scores, atol=1e-6)
    label = digits[1].view(1, N, 1).expand(STEPS + 1, N, 1)
    own = logits.gather(2, label)[..., 0]
    expected = {
        'ce': -scores.gather(2, label)[..., 0].log(),
        'margin': logits.scatter(2, label, -torch.inf).amax(2) - own,
        'kl': (scores[0] * (scores[0] / scores).log()).sum(2),
    }[loss]
    assert torch.allclose(path.losses, expected, atol=1e-5)
    assert (path.losses[-1] > path.losses[0]).all()


@pytest.mark.parametrize('attack', ['FGSM', 'NFGSM'])
def test_attacks_of_one_step(digits: Batch, attack: str) -> None:
    model = build_adversarial(train_attack=dict(type=f'm2at_mm.{attack}'))
    torch.manual_seed(0)
    path = AttackSteps.of(model.eval(), *digits)
    torch.manual_seed(0)
    expected = model.train_attack(model, *digits, model.threat_model)
    assert torch.equal(path.images[1], expected)
    assert len(draw_step_frames(path)) == len(path.images) == 2


def test_no_attack(digits: Batch) -> None:
    method = dict(type='m2at_mm.Standard')
    model = build_adversarial(method=method, train_attack=None)
    with pytest.raises(ValueError, match='train_attack=None has no steps'):
        AttackSteps.of(model, *digits)


@pytest.fixture
def path(digits: Batch) -> AttackSteps:
    """Steps with known predictions: the second image becomes wrong."""
    path = AttackSteps.of(tiny_model(), *digits)
    path.scores = torch.eye(K)[path.labels].repeat(STEPS + 1, 1, 1)
    path.scores[2:, 1] = torch.eye(K)[8]
    return path


def shown(axis: Any) -> Tensor:
    return torch.as_tensor(axis.images[0].get_array()).permute(2, 0, 1)


def test_strip(path: AttackSteps) -> None:
    figure = draw_attack_steps(path, NAMES, note='a note')
    assert len(figure.axes) == 2 * N * (STEPS + 1)
    assert 'PGD' in figure.get_suptitle() and 'a note' in figure.get_suptitle()
    for row in range(N):
        for step in range(STEPS + 1):
            place = 2 * row * (STEPS + 1) + step
            image, change = figure.axes[place], figure.axes[place + STEPS + 1]
            assert torch.equal(shown(image), path.images[step, row])
            expected = path.images[step, row] - path.images[0, row]
            expected = 0.5 + expected / (2 * 32 / 255)
            assert torch.allclose(shown(change), expected, atol=1e-6)
            wrong = row == 1 and step >= 2
            assert change.get_xlabel().splitlines() == [
                f'loss {path.losses[step, row]:.2f}',
                f'digit-{8 if wrong else row + 3} 100 %',
                *(['wrong'] if wrong else []),
            ]
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


def test_frames(path: AttackSteps) -> None:
    frames = draw_step_frames(path, NAMES)
    assert len(frames) == STEPS + 1
    assert len({tuple(frame.get_size_inches()) for frame in frames}) == 1
    for step, frame in enumerate(frames):
        for column, state in enumerate(frame.axes[:N]):
            assert torch.equal(shown(state), path.images[step, column])
            assert state.get_title() == f'digit-{column + 3}'
    assert frames[0].get_suptitle().endswith('\nclean')
    assert frames[2].get_suptitle().endswith(f'\nstep 2 of {STEPS}')
