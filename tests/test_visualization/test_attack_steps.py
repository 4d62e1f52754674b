import pytest
import torch
from picture_support import EPS, NAMES, Batch, K, N, shown, tiny_model

from m2at_mm.attacks import pgd
from m2at_mm.visualization import AttackSteps, attack_steps

STEPS = 4


@pytest.mark.parametrize('norm', ['linf', 'l2'])
@pytest.mark.parametrize('bn_mode', ['eval', 'batch'])
def test_path_to_the_attack(digits: Batch, norm: str, bn_mode: str) -> None:
    model = tiny_model(norm, steps=STEPS, bn_mode=bn_mode)
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
def test_loss_and_prediction(digits: Batch, loss: str) -> None:
    model = tiny_model(steps=STEPS, loss=loss)
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
    model = tiny_model(type=f'm2at_mm.{attack}')
    torch.manual_seed(0)
    path = AttackSteps.of(model, *digits)
    torch.manual_seed(0)
    expected = model.train_attack(model, *digits, model.threat_model)
    assert torch.equal(path.images[1], expected)
    assert len(attack_steps.draw_step_frames(path)) == len(path.images) == 2
    model.train_attack = None
    with pytest.raises(ValueError, match='train_attack=None has no steps'):
        AttackSteps.of(model, *digits)


def test_strip_and_frames(digits: Batch) -> None:
    model = tiny_model(steps=STEPS)
    path = AttackSteps.of(model, *digits)
    # Known predictions: the second image becomes wrong.
    path.scores = torch.eye(K)[path.labels].repeat(STEPS + 1, 1, 1)
    path.scores[2:, 1] = torch.eye(K)[8]
    figure = attack_steps.draw_attack_steps(path, NAMES, note='a note')
    assert len(figure.axes) == 2 * N * (STEPS + 1)
    assert 'PGD' in figure.get_suptitle() and 'a note' in figure.get_suptitle()
    frames = attack_steps.draw_step_frames(path, NAMES)
    assert len(frames) == STEPS + 1
    assert len({tuple(frame.get_size_inches()) for frame in frames}) == 1
    for row in range(N):
        for step, frame in enumerate(frames):
            place = 2 * row * (STEPS + 1) + step
            image, change = figure.axes[place], figure.axes[place + STEPS + 1]
            for panel in (image, frame.axes[row]):
                assert torch.equal(shown(panel), path.images[step, row])
            assert frame.axes[row].get_title() == f'digit-{row + 3}'
            expected = path.images[step, row] - path.images[0, row]
            expected = 0.5 + expected / (2 * EPS)
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
    assert frames[0].get_suptitle().endswith('\nclean')
    assert frames[2].get_suptitle().endswith(f'\nstep 2 of {STEPS}')


@pytest.mark.parametrize('steps', [10, 11, 20])
def test_a_long_path_is_shown_in_parts(digits: Batch, steps: int) -> None:
    model = tiny_model(steps=steps, step_size='1/255')
    path = AttackSteps.of(model, *(one[:1] for one in digits))
    figure = attack_steps.draw_attack_steps(path)
    titles = [axis.get_title() for axis in figure.axes[:11]]
    assert len(figure.axes) == 22 and len(set(titles)) == 11
    assert titles[0] == 'clean' and titles[-1] == f'step {steps}'
