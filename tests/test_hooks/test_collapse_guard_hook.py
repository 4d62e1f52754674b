from __future__ import annotations

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from digits_runner import build_digits_runner, small_digits_config
from interrupted_runs import build_runner as build_any_runner
from mmengine import dist
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from m2at_mm.attacks import FGSM, NFGSM, PGD, ThreatModel, own_random_stream
from m2at_mm.evaluation.samples import spread_order
from m2at_mm.hooks import CollapseGuardHook
from m2at_mm.hooks.collapse_guard_hook import _scale_step
from m2at_mm.methods import M2AT

SOUND = dict(clean=60.0, fgsm=40.0, pgd=35.0)
LARGE_RADIUS = dict(clean=80.0, fgsm=44.5, pgd=23.4)
OVERFITTED = dict(clean=70.0, fgsm=60.0, pgd=1.0)
GUESSING = dict(clean=11.0, fgsm=10.0, pgd=10.0)


class Weights(Hook):
    """Notes the weights at the start of each epoch."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def before_train_epoch(self, runner: Runner) -> None:
        self.seen.append(runner.model.head.fc.weight.detach().clone())


def build_runner(work_dir: Path, epochs: int, **guard: Any) -> Runner:
    """Epochs of one iteration of ten digits under the guard."""
    hooks = dict(
        checkpoint=dict(max_keep_ckpts=-1),
        guard=dict(type='m2at_mm.CollapseGuardHook', **guard),
    )
    return build_digits_runner(
        work_dir, 10, epochs=epochs, default_hooks=hooks
    )


def guard_of(runner: Runner) -> CollapseGuardHook:
    (found,) = (h for h in runner.hooks if isinstance(h, CollapseGuardHook))
    return found


def measured(
    monkeypatch: pytest.MonkeyPatch, *figures: dict[str, float]
) -> None:
    """Let the guard see these figures, one epoch after the other."""
    given = iter(figures)
    monkeypatch.setattr(
        CollapseGuardHook, '_measure', lambda self, runner: next(given)
    )


def test_figures_are_those_of_the_attacks(tmp_path: Path) -> None:
    runner = build_runner(tmp_path, 1, num_images=8)
    guard = guard_of(runner)
    model = runner.model
    state = torch.get_rng_state()
    found = guard._measure(runner)
    assert guard._measure(runner) == found
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training == runner.model.training
    loader = runner.val_loop.dataloader
    order = spread_order(loader.dataset.get_gt_labels())
    data = loader.collate_fn(
        [loader.dataset[int(k)] for k in sorted(order[:8])]
    )
    batch = model.data_preprocessor(data, False)
    images = batch['inputs']
    labels = torch.cat([one.gt_label for one in batch['data_samples']])
    assert len(labels.unique()) == 8
    model.eval()
    with own_random_stream(images.device, 0):
        fgsm = FGSM()(model, images, labels, model.threat_model)
        pgd = PGD(steps=10)(model, images, labels, model.threat_model)
    for name, attacked in (('clean', images), ('fgsm', fgsm), ('pgd', pgd)):
        right = (model(attacked).argmax(1) == labels).float().mean()
        assert found[name] == pytest.approx(100 * float(right))


def test_sound_training_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # At the beginning a network guesses, and at a large radius several steps
    # do more than one.
    measured(monkeypatch, GUESSING, GUESSING, LARGE_RADIUS, SOUND)
    runner = build_runner(tmp_path, 4)
    runner.train()
    assert runner.epoch == 4
    logged = runner.message_hub.get_scalar('train/guard_fgsm')
    assert logged.current() == 40.0
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    ('figures', 'said'),
    [
        ([SOUND, OVERFITTED], 'catastrophic overfitting: 60.0 % under FGSM'),
        ([SOUND, GUESSING], 'guessing among 10 classes'),
        ([GUESSING, GUESSING], 'guessing among 10 classes'),
    ],
    ids=['overfitting', 'fell to chance', 'stayed at chance'],
)
def test_training_stops(
    figures: list[dict[str, float]],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured(monkeypatch, *figures)
    runner = build_runner(tmp_path, 5, patience=1)
    runner.train()
    assert runner.epoch == 2
    (log,) = tmp_path.glob('*/*.log')
    assert re.search(f'- ERROR -.*{said}', log.read_text())


def test_warning_alone_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, OVERFITTED, SOUND)
    runner = build_runner(tmp_path, 2, action='warn')
    runner.train()
    assert runner.epoch == 2


def test_going_back_to_the_last_sound_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, SOUND, SOUND, OVERFITTED, SOUND)
    runner = build_runner(tmp_path, 4, action='rollback')
    weights = Weights()
    runner.register_hook(weights)
    runner.train()
    assert runner.epoch == 4
    # Epoch 3 collapsed: the fourth begins where the third did.
    assert torch.equal(weights.seen[3], weights.seen[2])
    assert not torch.equal(weights.seen[2], weights.seen[1])
    momentum = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)[
        'optimizer'
    ]['state']
    assert momentum  # the optimiser's state was there to be loaded


def test_a_lower_step_stays_lower_after_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dict(action='lower_step', step_factor=0.25)
    measured(monkeypatch, SOUND, OVERFITTED, SOUND, SOUND)
    runner = build_runner(tmp_path, 3, **settings)
    attack = runner.model.train_attack
    configured = attack.step_size
    assert configured == '16/255'
    runner.train()
    threat_model = runner.model.threat_model
    assert attack.length_of_step(threat_model) == pytest.approx(4 / 255)
    again = build_runner(tmp_path, 4, **settings)
    again._resume = True
    again.train()
    assert again.epoch == 4
    attack = again.model.train_attack
    assert attack.length_of_step(threat_model) == pytest.approx(4 / 255)


def test_it_does_not_go_back_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, SOUND, *[OVERFITTED] * 5)
    runner = build_runner(tmp_path, 6, action='rollback', max_rollbacks=2)
    runner.train()
    assert runner.epoch == 4


LOOPS = ('epochs', 'iterations')


def build_in(work_dir: Path, loop: str, **settings: Any) -> Runner:
    """Three epochs of three batches, or nine iterations, with a guard."""
    guard = dict(
        type='m2at_mm.CollapseGuardHook',
        num_images=8,
        steps=1,
        by_epoch=loop == 'epochs',
        interval=1 if loop == 'epochs' else 2,
    )
    return build_any_runner(
        work_dir,
        loop,
        randomness=dict(seed=0),
        default_hooks=dict(guard=guard | settings.pop('guard', {})),
        **settings,
    )


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
    seen: list[int] = []

    def measure(self: CollapseGuardHook, runner: Runner) -> dict[str, float]:
        seen.append(runner.iter + (not self.by_epoch))
        return SOUND

    monkeypatch.setattr(CollapseGuardHook, '_measure', measure)
    build_in(tmp_path, loop, guard=guard).train()
    assert seen == expected


def test_iterations_stop_after_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, SOUND, OVERFITTED)
    runner = build_in(tmp_path, 'iterations')
    runner.train()
    assert runner.iter == 4


@pytest.mark.parametrize(
    ('loop', 'settings', 'message'),
    [
        ('iterations', dict(by_epoch=True), r'interval=2 counts epochs'),
        (
            'iterations',
            dict(action='rollback', interval=3),
            r'checkpoint.interval to 3 or a divisor of it, with by_epoch=Fa',
        ),
        (
            'epochs',
            dict(action='rollback', by_epoch=False, interval=2),
            r'interval to 2 or a divisor of it, with by_epoch=False',
        ),
    ],
)
def test_what_a_loop_does_not_allow(
    loop: str, settings: dict, message: str, tmp_path: Path
) -> None:
    runner = build_in(tmp_path, loop, guard=settings)
    with pytest.raises(ValueError, match=message):
        runner.train()


@pytest.mark.parametrize(
    ('checkpoint', 'interval'),
    [
        (dict(max_keep_ckpts=1), 2),
        (dict(save_optimizer=False), 1),
        (dict(interval=-1), 1),
        (dict(interval=2), 1),
    ],
)
def test_a_sound_checkpoint_that_would_be_gone(
    checkpoint: dict, interval: int, tmp_path: Path
) -> None:
    runner = build_digits_runner(
        tmp_path,
        10,
        default_hooks=dict(
            checkpoint=dict(interval=1, max_keep_ckpts=-1) | checkpoint,
            guard=dict(
                type='m2at_mm.CollapseGuardHook',
                action='rollback',
                interval=interval,
            ),
        ),
    )
    with pytest.raises(ValueError, match='would not be there'):
        runner.train()


@pytest.mark.parametrize(
    'model',
    [
        dict(method=dict(type='m2at_mm.FreeAT'), train_attack=None),
        # Its train attack is given and not called.
        dict(method=dict(type='m2at_mm.Standard')),
    ],
    ids=['free', 'standard'],
)
def test_no_step_to_lower(model: dict, tmp_path: Path) -> None:
    guard = dict(type='m2at_mm.CollapseGuardHook', action='lower_step')
    cfg = small_digits_config(tmp_path, 10, 10)
    for part, settings in model.items():
        cfg.model[part] = settings
    cfg.default_hooks.guard = guard
    with pytest.raises(ValueError, match=r"lower_step' needs .*'rollback'"):
        Runner.from_cfg(cfg).train()


@pytest.mark.parametrize(
    ('attack', 'step'),
    [
        (PGD(), 1 / 4),
        (PGD(step_size='4/255'), 1 / 2),
        (PGD(step_size=8 / 255), 1.0),
        (FGSM(), 1.0),
        (FGSM(step=1.25, random_start=True), 1.25),
    ],
)
def test_a_lower_step_is_a_share_of_the_one_in_force(
    attack: PGD, step: float
) -> None:
    """Steps in radii, of the radius that is in force when they are taken."""
    model = SimpleNamespace(
        train_attack=attack, threat_model=ThreatModel('linf', '1/255')
    )
    for lowered in (0.5, 0.25):
        _scale_step(model, 0.5)
        found = attack.length_of_step(ThreatModel('linf', '8/255'))
        assert found == pytest.approx(lowered * step * 8 / 255)


def test_a_lower_step_of_n_fgsm() -> None:
    model = SimpleNamespace(train_attack=NFGSM(noise=0.0))
    _scale_step(model, 0.5)
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(12, 2, bias=False)
    )
    images = torch.full((1, 3, 2, 2), 0.5)
    found = model.train_attack(
        network, images, torch.tensor([0]), ThreatModel('linf', '8/255')
    )
    moved = (found - images).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 4 / 255))


def test_a_schedule_of_the_step_stays_lowered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, SOUND, OVERFITTED, SOUND)
    runner = build_in(
        tmp_path,
        'epochs',
        guard=dict(action='lower_step'),
        custom_hooks=[
            dict(
                type='m2at_mm.AttackScheduleHook',
                schedules=[
                    dict(
                        param='train_attack.step_size',
                        values=['2/255', '8/255'],
                        milestones=[0, 2],
                    )
                ],
            )
        ],
    )
    lengths = []

    class Look(Hook):
        priority = 'LOWEST'

        def before_train_epoch(self, runner: Runner) -> None:
            model = runner.model
            length = model.train_attack.length_of_step(model.threat_model)
            lengths.append(255 * length)

    runner.register_hook(Look())
    runner.train()
    assert lengths == pytest.approx([2, 5, 8 / 2])


@pytest.mark.parametrize('keep', [1, -1])
def test_going_back_again_to_what_was_gone_back_to(
    keep: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one checkpoint is kept, the next is that of the old weights."""
    measured(monkeypatch, SOUND, OVERFITTED, OVERFITTED)
    runner = build_digits_runner(
        tmp_path,
        10,
        epochs=3,
        default_hooks=dict(
            checkpoint=dict(max_keep_ckpts=keep),
            guard=dict(type='m2at_mm.CollapseGuardHook', action='rollback'),
        ),
    )
    weights = Weights()
    runner.register_hook(weights)
    runner.train()
    assert runner.epoch == 3
    assert torch.equal(weights.seen[1], weights.seen[2])
    assert torch.equal(weights.seen[1], runner.model.head.fc.weight)


@pytest.mark.parametrize('loop', LOOPS)
def test_a_loss_is_read_before_a_checkpoint_and_not_each_time(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints after epochs of three, or after iterations 4, 8 and 9."""
    read: list[int] = []
    reduce = dist.all_reduce

    def noted(first: torch.Tensor, op: str = 'sum') -> None:
        if op == 'min':
            read.append(0)
        reduce(first, op)

    not_finite(monkeypatch, iteration=7 if loop == 'iterations' else 5)
    measured(monkeypatch, *[SOUND] * 9)
    guard = dict(action='rollback', interval=1 if loop == 'epochs' else 4)
    runner = build_in(
        tmp_path,
        loop,
        guard=guard,
        train_cfg=dict(val_interval=100),
    )
    if loop == 'iterations':
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook):
                hook.interval = 4
    monkeypatch.setattr(
        'm2at_mm.hooks.collapse_guard_hook.dist.all_reduce', noted
    )
    runner.train()
    assert len(read) == 3
    saved = list(tmp_path.glob('*_?.pth'))
    assert len(saved) == 4  # with the best one
    for path in saved:
        for name, value in end_state(path).items():
            assert value.isfinite().all(), (path, name)
    (log,) = tmp_path.glob('*/*.log')
    number = 7 if loop == 'iterations' else 5
    assert f'not finite in iteration {number}' in log.read_text()


def end_state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)['state_dict']


def not_finite(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    """Let one iteration's loss be infinite."""
    plain, count = M2AT.loss, iter(range(1, 100))

    def loss(*args: Any) -> dict[str, torch.Tensor]:
        factor = float('inf') if next(count) == iteration else 1.0
        losses = plain(*args)
        return dict(losses, loss=losses['loss'] * factor)

    monkeypatch.setattr(M2AT, 'loss', loss)


@pytest.mark.parametrize('action', ['warn', 'stop', 'rollback'])
def test_a_loss_that_is_not_finite_ends_training(
    action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_finite(monkeypatch, iteration=1)
    with pytest.raises(
        FloatingPointError, match=r'loss is not finite.*clip_grad'
    ):
        build_runner(tmp_path, 2, action=action).train()


def test_going_back_from_a_loss_that_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_finite(monkeypatch, iteration=2)
    measured(monkeypatch, SOUND, SOUND, SOUND)
    runner = build_runner(tmp_path, 3, action='rollback')
    runner.train()
    assert runner.epoch == 3
    for name, value in runner.model.state_dict().items():
        assert value.isfinite().all(), name


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(action='restart'), "action='restart' .*'rollback'"),
        (dict(interval=0), 'interval=0'),
        (dict(num_images=0.5), 'num_images=0.5'),
        (dict(max_gap=0), r'max_gap=0 .*\(0, 100\)'),
        (dict(step_factor=1), 'step_factor=1 '),
        (dict(steps=0), 'steps=0'),
    ],
)
def test_wrong_arguments(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CollapseGuardHook(**settings)
