from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from digits_runner import build_digits_runner
from mmengine.hooks import Hook
from mmengine.runner import Runner

from m2at_mm.attacks import FGSM, PGD, own_random_stream
from m2at_mm.evaluation.samples import spread_order
from m2at_mm.hooks import CollapseGuardHook
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
    assert attack.step_size == pytest.approx(0.25 * 16 / 255)
    again = build_runner(tmp_path, 4, **settings)
    again._resume = True
    again.train()
    assert again.epoch == 4
    assert again.model.train_attack.step_size == pytest.approx(4 / 255)


def test_it_does_not_go_back_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, SOUND, *[OVERFITTED] * 5)
    runner = build_runner(tmp_path, 6, action='rollback', max_rollbacks=2)
    runner.train()
    assert runner.epoch == 4


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
