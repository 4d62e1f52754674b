import copy
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from digits_runner import build_runner, log_of, resume
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.runner import Runner
from pytest import MonkeyPatch
from torch import nn

from m2at_mm.attacks import FGSM, NFGSM, PGD, ThreatModel, own_random_stream
from m2at_mm.hooks import CollapseGuardHook
from m2at_mm.hooks.watched_images import watched_batches
from m2at_mm.methods import M2AT

SOUND = dict(clean=60.0, fgsm=40.0, pgd=35.0)
LARGE_RADIUS = dict(clean=80.0, fgsm=44.5, pgd=23.4)
OVERFITTED = dict(clean=70.0, fgsm=60.0, pgd=1.0)
GUESSING = dict(clean=11.0, fgsm=10.0, pgd=10.0)
Build = Callable[..., Runner]


class Watch(Hook):
    """Notes weights and length of the step at the start of each epoch."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []
        self.steps: list[float] = []
        self.checked_at: list[int] = []

    def before_train_epoch(self, runner: Runner) -> None:
        model = runner.model
        self.weights.append(model.head.fc.weight.detach().clone())
        length = model.train_attack.length_of_step(model.threat_model)
        self.steps.append(255 * length)


@pytest.fixture
def build(tmp_path: Path, monkeypatch: MonkeyPatch) -> Build:
    """Function that builds nine iterations whose checks give the figures."""

    def guarded(loop: str, *figures: Any, **settings: Any) -> Runner:
        given, watch = iter(figures), Watch()

        def measure(self: CollapseGuardHook, runner: Runner) -> Any:
            watch.checked_at.append(runner.iter + (not self.by_epoch))
            return next(given)

        if figures:
            monkeypatch.setattr(CollapseGuardHook, '_measure', measure)
        by_epoch = loop == 'epochs'
        guard = dict(num_images=8, steps=1, interval=1 if by_epoch else 2)
        guard |= dict(by_epoch=by_epoch, type='m2at_mm.CollapseGuardHook')
        settings = copy.deepcopy(settings)  # merging takes _delete_ out
        guard |= settings.pop('guard', {})
        hooks = dict(guard=guard, checkpoint=settings.pop('checkpoint', {}))
        settings['default_hooks'] = hooks
        if 'epochs' in settings:
            settings['train_cfg'] = dict(max_epochs=settings.pop('epochs'))
        settings['randomness'] = dict(seed=0)
        runner = build_runner(tmp_path, loop, **settings)
        runner.register_hook(watch)
        runner.watch = watch
        return runner

    return guarded


def not_finite(monkeypatch: MonkeyPatch, iteration: int) -> None:
    """Let one iteration's loss be infinite."""
    plain, count = M2AT.loss, iter(range(1, 100))

    def loss(*args: Any) -> dict[str, torch.Tensor]:
        losses = plain(*args)
        if next(count) == iteration:
            losses['loss'] = losses['loss'] * float('inf')
        return losses

    monkeypatch.setattr(M2AT, 'loss', loss)


def test_figures_are_those_of_the_attacks(build: Build) -> None:
    runner = build('epochs', guard=dict(steps=10))
    (guard,) = (h for h in runner.hooks if isinstance(h, CollapseGuardHook))
    model = runner.model
    state = torch.get_rng_state()
    found = guard._measure(runner)
    assert guard._measure(runner) == found
    assert torch.equal(torch.get_rng_state(), state) and model.training
    ((images, labels),) = watched_batches(runner, 8)
    model.eval()
    with own_random_stream(images.device, 0):
        fgsm = FGSM()(model, images, labels, model.threat_model)
        pgd = PGD(steps=10)(model, images, labels, model.threat_model)
    for name, attacked in (('clean', images), ('fgsm', fgsm), ('pgd', pgd)):
        right = (model(attacked).argmax(1) == labels).float().mean()
        assert found[name] == pytest.approx(100 * float(right))


OVERFITTING = 'catastrophic overfitting: 60.0 % under FGSM'
CHANCE = 'guessing among 10 classes'
BACK, LOWER = dict(action='rollback'), dict(action='lower_step')
ROLLBACK = dict(BACK, max_rollbacks=2)
BY_ITERATION = dict(by_epoch=False, interval=2)


COURSES = [
    # At the beginning a network guesses, and at a large radius several
    # steps do more than one.
    ([GUESSING, GUESSING, LARGE_RADIUS, SOUND], dict(patience=5), '', 4),
    ([SOUND, OVERFITTED], {}, OVERFITTING, 2),
    ([SOUND, GUESSING], {}, CHANCE, 2),  # it fell to chance
    ([GUESSING, GUESSING], {}, CHANCE, 2),  # it stayed there
    ([OVERFITTED, *[SOUND] * 3], dict(action='warn'), OVERFITTING, 4),
    # It does not go back for ever.
    ([SOUND, *[OVERFITTED] * 3], ROLLBACK, OVERFITTING, 4),
]


@pytest.mark.parametrize(('figures', 'guard', 'said', 'end'), COURSES)
def test_training_stops_where_it_failed(
    figures: list, guard: dict, said: str, end: int, build: Build
) -> None:
    last = 4 if end == 4 and guard is not ROLLBACK else 5
    guard = dict(patience=1) | guard
    runner = build('epochs', *figures, guard=guard, epochs=last)
    runner.train()
    assert runner.epoch == end
    logged = runner.message_hub.get_scalar('train/guard_fgsm')
    assert logged.current() == figures[-1]['fgsm']
    log = log_of(Path(runner.work_dir))
    assert ('- ERROR -' in log) == bool(said)
    assert re.search(f'- ERROR -.*{said}', log) or not said


SAME_STARTS = [
    # Epoch 3 collapsed: the fourth begins where the third did.
    ([SOUND, SOUND, OVERFITTED, SOUND], [False, False, True]),
    # Where one checkpoint is kept, the next is that of the old weights.
    ([SOUND, OVERFITTED, OVERFITTED, SOUND], [False, True, True]),
]


@pytest.mark.parametrize('keep', [1, -1])
@pytest.mark.parametrize(('figures', 'same'), SAME_STARTS)
def test_going_back_to_the_last_sound_checkpoint(
    figures: list, same: list[bool], keep: int, build: Build
) -> None:
    settings = dict(guard=BACK, checkpoint=dict(max_keep_ckpts=keep))
    runner = build('epochs', *figures, epochs=4, **settings)
    runner.train()
    assert runner.epoch == 4
    pairs = pairwise(runner.watch.weights)
    assert [torch.equal(one, other) for one, other in pairs] == same


@pytest.mark.parametrize('scheduled', [False, True])
def test_a_lower_step_stays_lower(scheduled: bool, build: Build) -> None:
    """Also after resuming, and under a schedule of the step."""
    settings: dict[str, Any] = dict(guard=dict(LOWER, step_factor=0.25))
    expected = [16.0, 16.0, 4.0]
    if scheduled:
        values = dict(values=['2/255', '8/255'], milestones=[0, 2])
        schedules = [dict(values, param='train_attack.step_size')]
        hook = dict(type='m2at_mm.AttackScheduleHook', schedules=schedules)
        settings = dict(guard=LOWER, custom_hooks=[hook])
        expected = [2, 5, 8 / 2]
    runner = build('epochs', SOUND, OVERFITTED, *[SOUND] * 3, **settings)
    runner.train()
    assert runner.watch.steps == pytest.approx(expected)
    if not scheduled:
        runner = resume(build('epochs', **settings, epochs=5))
        assert runner.watch.steps == pytest.approx([4, 4])


@pytest.mark.parametrize('attack', [FGSM(), NFGSM(noise=0.0)])
def test_a_lower_step_is_a_share_of_the_one_in_force(attack: Any) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False))
    images = torch.full((1, 3, 2, 2), 0.5)
    labels, threat_model = torch.tensor([0]), ThreatModel('linf', '8/255')
    for lowered in (4 / 255, 2 / 255):
        attack.step_factor *= 0.5
        found = attack(network, images, labels, threat_model)
        moved = (found - images).abs()
        torch.testing.assert_close(moved, torch.full_like(moved, lowered))


DUE = [
    ('epochs', dict(interval=2), [6]),
    ('epochs', BY_ITERATION, [2, 4, 6, 8]),
    ('iterations', {}, [2, 4, 6, 8]),
    ('iterations', dict(interval=4), [4, 8]),
]


@pytest.mark.parametrize(('loop', 'guard', 'expected'), DUE)
def test_checks_are_made_when_they_are_due(
    loop: str, guard: dict, expected: list[int], build: Build
) -> None:
    """The last one stops the training, at once in a loop by iterations."""
    figures = [*[SOUND] * (len(expected) - 1), OVERFITTED]
    runner = build(loop, *figures, guard=guard)
    runner.train()
    assert runner.watch.checked_at == expected
    assert runner.iter == expected[-1] or loop == 'epochs'


TWO, KEEP_ONE = dict(interval=2), dict(max_keep_ckpts=1)
DIVISOR = 'checkpoint.interval to {} or a divisor of it, with by_epoch=False'
GONE = 'would not be there'
NO_STEP = r"lower_step' needs .*'rollback'"
OTHER = dict(type='m2at_mm.FreeAT', _delete_=True)
FREE_AT = dict(method=OTHER, train_attack=None)
# Its train attack is given and not called.
STANDARD = dict(method=dict(OTHER, type='m2at_mm.Standard'))


NOT_ALLOWED = [
    ('iterations', dict(guard=dict(by_epoch=True)), 'interval=2 counts e'),
    ('iterations', dict(guard=BACK | dict(interval=3)), DIVISOR.format(3)),
    ('epochs', dict(guard=BACK | BY_ITERATION), DIVISOR.format(2)),
    ('epochs', dict(guard=BACK | TWO, checkpoint=KEEP_ONE), GONE),
    ('epochs', dict(checkpoint=dict(save_optimizer=False)), GONE),
    ('epochs', dict(checkpoint=dict(interval=-1)), GONE),
    ('epochs', dict(checkpoint=TWO), GONE),
    ('epochs', dict(guard=LOWER, model=STANDARD), NO_STEP),
    ('epochs', dict(guard=LOWER, model=FREE_AT), NO_STEP),
]


@pytest.mark.parametrize(('loop', 'settings', 'message'), NOT_ALLOWED)
def test_what_a_training_does_not_allow(
    loop: str, settings: dict, message: str, build: Build
) -> None:
    runner = build(loop, **dict(guard=BACK) | settings)
    with pytest.raises(ValueError, match=message):
        runner.train()


@pytest.mark.parametrize('loop', ['epochs', 'iterations'])
def test_loss_read_rarely(loop: str, build: Build, monkeypatch: Any) -> None:
    """Checkpoints after epochs of three, or after iterations 4, 8 and 9."""
    iteration = 5 if loop == 'epochs' else 7
    not_finite(monkeypatch, iteration)
    every = dict(interval=1 if loop == 'epochs' else 4)
    settings = dict(checkpoint=every, train_cfg=dict(val_interval=100))
    runner = build(loop, *[SOUND] * 9, guard=BACK | every, **settings)
    reduce = Mock(wraps=dist.all_reduce)
    monkeypatch.setattr(dist, 'all_reduce', reduce)
    runner.train()
    ops = [call.args[1:] for call in reduce.call_args_list]
    assert ops.count(('min',)) == 3
    work_dir = Path(runner.work_dir)
    saved = list(work_dir.glob('*_?.pth'))
    assert len(saved) == 4  # with the best one
    for path in saved:
        weights = torch.load(path, weights_only=True)['state_dict']
        assert all(value.isfinite().all() for value in weights.values()), path
    assert f'not finite in iteration {iteration}' in log_of(work_dir)


@pytest.mark.parametrize('action', ['warn', 'stop', 'rollback'])
def test_infinite_losses(action: str, build: Build, monkeypatch: Any) -> None:
    not_finite(monkeypatch, iteration=1)
    message = r'loss is not finite.*clip_grad'
    with pytest.raises(FloatingPointError, match=message):
        build('epochs', guard=dict(action=action)).train()
