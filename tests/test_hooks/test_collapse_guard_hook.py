from __future__ import annotations

import re
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from digits_runner import build_digits_runner, quick_cfg
from interrupted_runs import build_runner as build_any_runner
from interrupted_runs import log_of, resume
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.runner import Runner

from m2at_mm.attacks import FGSM, NFGSM, PGD, ThreatModel, own_random_stream
from m2at_mm.hooks import CollapseGuardHook
from m2at_mm.hooks.watched_images import watched_batches
from m2at_mm.methods import M2AT

GUARD = 'm2at_mm.CollapseGuardHook'
SOUND = dict(clean=60.0, fgsm=40.0, pgd=35.0)
LARGE_RADIUS = dict(clean=80.0, fgsm=44.5, pgd=23.4)
OVERFITTED = dict(clean=70.0, fgsm=60.0, pgd=1.0)
GUESSING = dict(clean=11.0, fgsm=10.0, pgd=10.0)
ten_digits = partial(build_digits_runner, num_images=10, network=quick_cfg)


class Watch(Hook):
    """Notes weights and length of the step at the start of each epoch."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []
        self.steps: list[float] = []

    def before_train_epoch(self, runner: Runner) -> None:
        model = runner.model
        self.weights.append(model.head.fc.weight.detach().clone())
        length = model.train_attack.length_of_step(model.threat_model)
        self.steps.append(255 * length)


def trained(runner: Runner) -> Watch:
    watch = Watch()
    runner.register_hook(watch)
    runner.train()
    return watch


def build_runner(
    work_dir: Path, epochs: int = 1, keep: int = -1, **guard: Any
) -> Runner:
    """Epochs of one iteration of ten digits under the guard."""
    hooks = dict(
        checkpoint=dict(max_keep_ckpts=keep, published_keys=None),
        guard=dict(type=GUARD, **guard),
    )
    return ten_digits(work_dir, epochs=epochs, default_hooks=hooks)


def build_in(work_dir: Path, loop: str, **settings: Any) -> Runner:
    """Three epochs of three batches, or nine iterations, with a guard."""
    guard = dict(
        type=GUARD,
        num_images=8,
        steps=1,
        by_epoch=loop == 'epochs',
        interval=1 if loop == 'epochs' else 2,
    )
    guard |= settings.pop('guard', {})
    hooks = dict(guard=guard) | settings.pop('default_hooks', {})
    seed = dict(randomness=dict(seed=0))
    return build_any_runner(
        work_dir, loop, default_hooks=hooks, **seed, **settings
    )


def measured(monkeypatch: pytest.MonkeyPatch, *figures: Any) -> None:
    """Let the guard see these figures, one check after the other."""
    given = iter(figures)
    monkeypatch.setattr(
        CollapseGuardHook, '_measure', lambda self, runner: next(given)
    )


def not_finite(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    """Let one iteration's loss be infinite."""
    plain, count = M2AT.loss, iter(range(1, 100))

    def loss(*args: Any) -> dict[str, torch.Tensor]:
        factor = float('inf') if next(count) == iteration else 1.0
        losses = plain(*args)
        return dict(losses, loss=losses['loss'] * factor)

    monkeypatch.setattr(M2AT, 'loss', loss)


def test_figures_are_those_of_the_attacks(tmp_path: Path) -> None:
    runner = build_runner(tmp_path, num_images=8)
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
ROLLBACK = dict(action='rollback', max_rollbacks=2)


@pytest.mark.parametrize(
    ('figures', 'guard', 'said', 'end'),
    [
        # At the beginning a network guesses, and at a large radius several
        # steps do more than one.
        ([GUESSING, GUESSING, LARGE_RADIUS, SOUND], dict(patience=5), '', 4),
        ([SOUND, OVERFITTED], {}, OVERFITTING, 2),
        ([SOUND, GUESSING], {}, CHANCE, 2),  # it fell to chance
        ([GUESSING, GUESSING], {}, CHANCE, 2),  # it stayed there
        ([OVERFITTED, *[SOUND] * 3], dict(action='warn'), OVERFITTING, 4),
        # It does not go back for ever.
        ([SOUND, *[OVERFITTED] * 3], ROLLBACK, OVERFITTING, 4),
    ],
)
def test_training_stops_where_it_failed(
    figures: list[dict[str, float]],
    guard: dict,
    said: str,
    end: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured(monkeypatch, *figures)
    epochs = 4 if end == 4 and guard is not ROLLBACK else 5
    runner = build_runner(tmp_path, epochs, **dict(patience=1) | guard)
    runner.train()
    assert runner.epoch == end
    logged = runner.message_hub.get_scalar('train/guard_fgsm')
    assert logged.current() == figures[-1]['fgsm']
    log = log_of(tmp_path)
    assert ('- ERROR -' in log) == bool(said)
    assert re.search(f'- ERROR -.*{said}', log) or not said


@pytest.mark.parametrize('keep', [1, -1])
@pytest.mark.parametrize(
    ('figures', 'same'),
    [
        # Epoch 3 collapsed: the fourth begins where the third did.
        ([SOUND, SOUND, OVERFITTED, SOUND], [False, False, True]),
        # Where one checkpoint is kept, the next is that of the old weights.
        ([SOUND, OVERFITTED, OVERFITTED, SOUND], [False, True, True]),
    ],
)
def test_going_back_to_the_last_sound_checkpoint(
    figures: list,
    same: list[bool],
    keep: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured(monkeypatch, *figures)
    runner = build_runner(tmp_path, 4, keep, action='rollback')
    weights = trained(runner).weights
    assert runner.epoch == 4
    pairs = pairwise(weights)
    assert [torch.equal(one, other) for one, other in pairs] == same


def test_a_lower_step_stays_lower_after_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, SOUND, OVERFITTED, SOUND, SOUND, SOUND)
    lower = dict(action='lower_step', step_factor=0.25)
    runner = build_runner(tmp_path, 3, **lower)
    assert trained(runner).steps == pytest.approx([16, 16, 4])
    runner, watch = build_runner(tmp_path, 5, **lower), Watch()
    runner.register_hook(watch)
    resume(runner)
    assert watch.steps == pytest.approx([4, 4])


def test_a_schedule_of_the_step_stays_lowered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, SOUND, OVERFITTED, SOUND)
    schedule = dict(
        param='train_attack.step_size',
        values=['2/255', '8/255'],
        milestones=[0, 2],
    )
    hook = dict(type='m2at_mm.AttackScheduleHook', schedules=[schedule])
    runner = build_in(
        tmp_path,
        'epochs',
        guard=dict(action='lower_step'),
        custom_hooks=[hook],
    )
    assert trained(runner).steps == pytest.approx([2, 5, 8 / 2])


@pytest.mark.parametrize(
    'attack',
    [FGSM(), NFGSM(noise=0.0)],
    ids=lambda attack: type(attack).__name__,
)
def test_a_lower_step_is_a_share_of_the_one_in_force(attack: Any) -> None:
    flat = torch.nn.Flatten()
    network = torch.nn.Sequential(flat, torch.nn.Linear(12, 2, bias=False))
    images = torch.full((1, 3, 2, 2), 0.5)
    labels, threat_model = torch.tensor([0]), ThreatModel('linf', '8/255')
    for lowered in (4 / 255, 2 / 255):
        attack.step_factor *= 0.5
        found = attack(network, images, labels, threat_model)
        moved = (found - images).abs()
        torch.testing.assert_close(moved, torch.full_like(moved, lowered))


@pytest.mark.parametrize(
    ('loop', 'guard', 'expected'),
    [
        ('epochs', dict(interval=2), [6]),
        ('epochs', dict(by_epoch=False, interval=2), [2, 4, 6, 8]),
        ('iterations', {}, [2, 4, 6, 8]),
        ('iterations', dict(interval=4), [4, 8]),
    ],
)
def test_checks_are_made_when_they_are_due(
    loop: str,
    guard: dict,
    expected: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last one stops the training, at once in a loop by iterations."""
    seen: list[int] = []

    def measure(self: CollapseGuardHook, runner: Runner) -> dict[str, float]:
        seen.append(runner.iter + (not self.by_epoch))
        return OVERFITTED if seen == expected else SOUND

    monkeypatch.setattr(CollapseGuardHook, '_measure', measure)
    runner = build_in(tmp_path, loop, guard=guard)
    runner.train()
    assert seen == expected
    assert runner.iter == expected[-1] or loop == 'epochs'


BACK, LOWER = dict(action='rollback'), dict(action='lower_step')
EVERY_TWO = dict(interval=2, by_epoch=False)
DIVISOR = 'checkpoint.interval to {} or a divisor of it, with by_epoch=False'
GONE = 'would not be there'
NO_STEP = r"lower_step' needs .*'rollback'"
FREE_AT = dict(train_attack=None, method=dict(type='m2at_mm.FreeAT'))
# Its train attack is given and not called.
STANDARD = dict(method=dict(type='m2at_mm.Standard'))


@pytest.mark.parametrize(
    ('loop', 'guard', 'checkpoint', 'model', 'message'),
    [
        ('iterations', dict(by_epoch=True), {}, {}, 'interval=2 counts ep'),
        ('iterations', BACK | dict(interval=3), {}, {}, DIVISOR.format(3)),
        ('epochs', BACK | EVERY_TWO, {}, {}, DIVISOR.format(2)),
        ('epochs', BACK | dict(interval=2), dict(max_keep_ckpts=1), {}, GONE),
        ('epochs', BACK, dict(save_optimizer=False), {}, GONE),
        ('epochs', BACK, dict(interval=-1), {}, GONE),
        ('epochs', BACK, dict(interval=2), {}, GONE),
        ('epochs', LOWER, {}, FREE_AT, NO_STEP),
        ('epochs', LOWER, {}, STANDARD, NO_STEP),
    ],
)
def test_what_a_training_does_not_allow(
    loop: str,
    guard: dict,
    checkpoint: dict,
    model: dict,
    message: str,
    tmp_path: Path,
) -> None:
    if model:
        model = dict(model, method=dict(model['method'], _delete_=True))
    hooks = dict(checkpoint=checkpoint)
    runner = build_in(
        tmp_path, loop, guard=guard, model=model, default_hooks=hooks
    )
    with pytest.raises(ValueError, match=message):
        runner.train()


@pytest.mark.parametrize(
    ('loop', 'iteration'), [('epochs', 5), ('iterations', 7)]
)
def test_a_loss_is_read_before_a_checkpoint_and_not_each_time(
    loop: str, iteration: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints after epochs of three, or after iterations 4, 8 and 9."""
    read: list[torch.Tensor] = []
    reduce = dist.all_reduce

    def noted(first: torch.Tensor, op: str = 'sum') -> None:
        if op == 'min':
            read.append(first)
        reduce(first, op)

    not_finite(monkeypatch, iteration)
    measured(monkeypatch, *[SOUND] * 9)
    interval = 1 if loop == 'epochs' else 4
    runner = build_in(
        tmp_path,
        loop,
        guard=dict(action='rollback', interval=interval),
        train_cfg=dict(val_interval=100),
        default_hooks=dict(checkpoint=dict(interval=interval)),
    )
    monkeypatch.setattr(
        'm2at_mm.hooks.collapse_guard_hook.dist.all_reduce', noted
    )
    runner.train()
    assert len(read) == 3
    saved = list(tmp_path.glob('*_?.pth'))
    assert len(saved) == 4  # with the best one
    for path in saved:
        weights = torch.load(path, weights_only=True)['state_dict']
        assert all(value.isfinite().all() for value in weights.values()), path
    assert f'not finite in iteration {iteration}' in log_of(tmp_path)


@pytest.mark.parametrize('action', ['warn', 'stop', 'rollback'])
def test_a_loss_that_is_not_finite_ends_training(
    action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_finite(monkeypatch, iteration=1)
    with pytest.raises(
        FloatingPointError, match=r'loss is not finite.*clip_grad'
    ):
        build_runner(tmp_path, 2, action=action).train()


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(action='restart'), "action='restart' .*'rollback'"),
        (dict(interval=0), 'interval=0'),
        (dict(num_images=0.5), 'num_images=0.5'),
        (dict(max_gap=0), r'max_gap=0 .*above 0 and below 100'),
        (dict(step_factor=1), 'step_factor=1 '),
        (dict(steps=0), 'steps=0'),
    ],
)
def test_wrong_arguments(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CollapseGuardHook(**settings)
