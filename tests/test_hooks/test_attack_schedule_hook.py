import math
import operator
from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.logging import MessageHub
from mmengine.runner import IterBasedTrainLoop
from tiny import build_adversarial

from m2at_mm.hooks import AttackScheduleHook

EPS = 'threat_model.eps'
ONE = dict(param=EPS, values=[0.0, 0.1], milestones=[2, 6])


def runner_of(settings: dict | None = None) -> Any:
    """What the hook needs of a Runner."""
    found = SimpleNamespace(epoch=0, iter=0, train_loop=None)
    found.model = build_adversarial(**settings or {})
    found.message_hub = MessageHub.get_instance(f'schedule{id(found)}')
    return found


def hook_and_runner(settings: dict | None = None, **schedule: Any) -> Any:
    hook, runner = AttackScheduleHook([ONE | schedule]), runner_of(settings)
    hook.before_train(runner)
    return hook, runner


def by_epoch(hook: AttackScheduleHook, runner: Any, epoch: int) -> float:
    runner.epoch = epoch
    hook.before_train_epoch(runner)
    hook.before_train_iter(runner, 0)
    return runner.model.threat_model.eps


CURVES = [
    ({}, {0: 0.0, 2: 0.0, 3: 0.025, 5: 0.075, 6: 0.1, 9: 0.1}),
    (
        dict(curve='cosine'),
        {0: 0.0, 3: (1 - math.sqrt(0.5)) / 20, 4: 0.05, 6: 0.1},
    ),
    (
        dict(curve='step', values=['1/255', '2/255', '4/255']),
        {0: 1 / 255, 1: 1 / 255, 2: 2 / 255, 5: 2 / 255, 6: 4 / 255},
    ),
]


@pytest.mark.parametrize(
    ('schedule', 'expected'), CURVES, ids=['linear', 'cosine', 'step']
)
def test_curves(schedule: dict, expected: dict[int, float]) -> None:
    hook, runner = hook_and_runner(**schedule)
    found = {epoch: by_epoch(hook, runner, epoch) for epoch in expected}
    assert found == pytest.approx(expected)
    logged = runner.message_hub.get_scalar(f'train/{EPS}')
    assert logged.current() == found[max(expected)]
    # Resuming needs no history.
    for epoch in expected:
        again = hook_and_runner(**schedule)
        assert by_epoch(*again, epoch) == found[epoch]


def test_iterations_count_where_they_are_asked_for() -> None:
    hook, runner = hook_and_runner(by_epoch=False)
    configured = runner.model.threat_model.eps
    runner.epoch = 4
    hook.before_train_epoch(runner)
    assert runner.model.threat_model.eps == configured
    runner.iter = 4
    hook.before_train_iter(runner, 0)
    assert runner.model.threat_model.eps == pytest.approx(0.05)


@pytest.mark.parametrize('training', [True, False])
def test_validation_uses_the_settings_of_the_config(training: bool) -> None:
    hook, runner = AttackScheduleHook([ONE]), runner_of()
    if training:
        hook.before_train(runner)
        by_epoch(hook, runner, 3)
    hook.before_val_epoch(runner)
    assert runner.model.threat_model.eps == 8 / 255
    hook.after_val_epoch(runner, metrics={})
    expected = 0.025 if training else 8 / 255
    assert runner.model.threat_model.eps == pytest.approx(expected)


FGSM = dict(train_attack=dict(type='m2at_mm.FGSM'))
FREE_AT = dict(method=dict(type='m2at_mm.FreeAT'))
STANDARD = dict(method=dict(type='m2at_mm.Standard'))
STEPS, STEP_SIZE = 'train_attack.steps', 'train_attack.step_size'


UNUSABLE = [
    ({}, 'threat_model.radius', [0, 1], 'no setting of the model'),
    ({}, 'nothing.eps', [0, 1], 'no setting of the model'),
    ({}, 'head.in_channels', [1, 2], 'no setting of the model'),
    ({}, 'train_attack.random_start', [0, 1], 'only numbers'),
    ({}, 'train_attack', [0, 1], 'only numbers'),
    ({}, 'train_attack.compile_mode', [0, 1], 'is None, but only numbers'),
    ({}, 'train_attack.loss', [0, 1], "is 'ce', but only numbers"),
    ({}, 'train_attack.step_factor', [0.1, 1], 'no setting'),
    ({}, EPS, [0.0, 8.0], 'eps=8.0 is above 1'),
    ({}, EPS, ['8/255', '300/255'], "'300/255' is above 1, the whole"),
    ({}, STEPS, [0, 10], 'steps=0 must be a whole number'),
    ({}, STEP_SIZE, ['1/255', 2], 'step_size=2 is above'),
    ({}, 'train_attack.noise_std', [0.1, 2], 'noise_std=2 must be'),
    ({}, 'method.scale', [0.5, 2], 'scale=0.5 must be'),
    ({}, 'label_smoothing', [0, 1], 'label_smoothing=1 must be'),
    ({}, 'label_smoothing', [-0.1, 0.1], 'label_smoothing=-0.1'),
    # What would change nothing.
    (FGSM, STEP_SIZE, [0.1, 0.2], 'FGSM has .*step'),
    (FGSM, STEPS, [1, 2], r'FGSM has \['),
    (FREE_AT, STEPS, [1, 2], 'method=FreeAT does not use'),
    (STANDARD, EPS, [0, 0.1], 'method=Standard does not use'),
    ({}, 'method.patch_size', [2, 4], "mask='rectangle' does not use"),
]


@pytest.mark.parametrize(('settings', 'param', 'values', 'message'), UNUSABLE)
def test_what_a_training_cannot_use(
    settings: dict, param: str, values: list, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        hook_and_runner(settings, param=param, values=values)


def test_epochs_are_refused_in_a_loop_without_them() -> None:
    with pytest.raises(ValueError, match='more than once'):
        AttackScheduleHook([ONE, dict(ONE)])
    runner = runner_of()
    runner.train_loop = IterBasedTrainLoop.__new__(IterBasedTrainLoop)
    AttackScheduleHook([dict(ONE, by_epoch=False)]).before_train(runner)
    with pytest.raises(ValueError, match=r'threat_model.eps.*by_epoch=False'):
        AttackScheduleHook([ONE]).before_train(runner)


L2 = dict(threat_model=dict(norm='l2', eps='128/255'))
SCALE = dict(method=dict(type='m2at_mm.M2AT', scale=2))


IN_FORCE = [
    ({}, 'label_smoothing', [0, 0.2], 0.1),
    # A whole number in the config, but not by its meaning.
    (SCALE, 'method.scale', [1, 2], 1.5),
    ({}, STEPS, [1, 10], 6),  # rounded
    (L2, EPS, ['255/255', '765/255'], 2.0),
    # Longer than the radius, which no fraction would leave in doubt.
    (L2, STEP_SIZE, ['0/255', '765/255'], 1.5),
    # By default it is a quarter of the radius.
    ({}, STEP_SIZE, ['0/255', '4/255'], 2 / 255),
]


@pytest.mark.parametrize(('settings', 'param', 'values', 'expected'), IN_FORCE)
def test_the_value_in_force(
    settings: dict, param: str, values: list, expected: float
) -> None:
    hook, runner = hook_and_runner(settings, param=param, values=values)
    by_epoch(hook, runner, 4)
    model = runner.model
    value = operator.attrgetter(param)(model)
    if param == STEP_SIZE:
        value = model.train_attack.length_of_step(model.threat_model)
    assert value == pytest.approx(expected)
    assert isinstance(value, type(expected))
