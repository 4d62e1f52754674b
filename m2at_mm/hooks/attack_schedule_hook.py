"""Settings of the attack and the method that change over training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import Runner

from m2at_mm.attacks import parse_pixels
from m2at_mm.attacks.threat_model import Pixels
from m2at_mm.model_wrappers import bare_model
from m2at_mm.registry import HOOKS
from m2at_mm.runner.loop_events import refuse_epochs
from m2at_mm.runner.model_settings import Setting, find_setting

CURVES = ('linear', 'cosine', 'step')


@dataclass(frozen=True)
class _Schedule:
    """A setting's value by epoch or iteration."""

    param: str
    written: tuple[Pixels, ...]  # as the config has them
    values: tuple[float, ...]
    milestones: tuple[int, ...]
    curve: str
    by_epoch: bool

    def value_at(self, time: int) -> float:
        """The value in epoch or iteration ``time``, counted from 0."""
        if time < self.milestones[0]:
            return self.values[0]
        if self.curve == 'step':
            passed = sum(time >= at for at in self.milestones)
            return self.values[passed]
        begin, end = self.milestones
        share = min(1.0, (time - begin) / (end - begin))
        if self.curve == 'cosine':
            share = (1 - math.cos(math.pi * share)) / 2
        first, last = self.values
        return first + share * (last - first)


@HOOKS.register_module()
class AttackScheduleHook(Hook):
    """Change settings of the threat model, attack or method while training.

    A setting is a number that the threat model, the train attack or the
    method of an AdversarialClassifier was given: ``'threat_model.eps'``,
    ``'train_attack.step_size'``, ``'train_attack.steps'``,
    ``'method.scale'``, ...; or ``'label_smoothing'``. A whole number, like
    ``steps``, is rounded. The value depends on epoch or iteration
    alone, so a resumed run goes on where it was. Validation uses the settings
    of the config, so that its figures can be compared from epoch to epoch.
    Each value is logged under its name.

    Args:
        schedules (Sequence[dict]): One per setting, with

            - ``param`` (str): The setting's dotted name.
            - ``values`` (Sequence[float | str]): For ``'linear'`` and
              ``'cosine'``, the first and the last value; for ``'step'``, one
              more than there are milestones. Sizes in pixels also as
              ``'8/255'``.
            - ``milestones`` (Sequence[int]): Epochs or iterations, counted
              from 0, ascending. For ``'linear'`` and ``'cosine'``, where the
              change begins and where it ends; for ``'step'``, where each next
              value begins.
            - ``curve`` (str): ``'linear'``, ``'cosine'`` (half a period) or
              ``'step'``. Defaults to ``'linear'``.
            - ``by_epoch`` (bool): Whether milestones are epochs, else
              iterations, as a loop by iterations needs. Defaults to True.

    Raises:
        ValueError: A schedule is incomplete or contradicts itself. At the
            start of training, the loop has no epochs to count, or a setting
            does not exist, is no number, is not used in this training or
            does not allow one of the values.

    Example:
        >>> default_hooks = dict(
        ...     attack_schedule=dict(
        ...         type='m2at_mm.AttackScheduleHook',
        ...         schedules=[
        ...             dict(param='threat_model.eps',
        ...                  values=['0/255', '8/255'], milestones=[0, 10])]))
    """

    def __init__(self, schedules: Sequence[dict[str, Any]]) -> None:
        self.schedules = [_read(schedule) for schedule in schedules]
        names = [schedule.param for schedule in self.schedules]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f'schedules set {sorted(twice)} more than once')
        self._settings: dict[str, Setting] = {}

    def before_train(self, runner: Runner) -> None:
        """Find the settings and check that they allow the values."""
        model = bare_model(runner.model)
        for schedule in self.schedules:
            if schedule.by_epoch:
                refuse_epochs(runner, f'the schedule of {schedule.param!r}')
            self._settings[schedule.param] = find_setting(
                model, schedule.param
            )
        for schedule in self.schedules:
            setting = self._settings[schedule.param]
            for value in schedule.written:
                setting.check(value)

    def before_train_epoch(self, runner: Runner) -> None:
        """Set what is scheduled by epoch."""
        self._apply(runner, by_epoch=True)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None
    ) -> None:
        """Set what is scheduled by iteration."""
        self._apply(runner, by_epoch=False)

    def before_val_epoch(self, runner: Runner) -> None:
        """Validate with the settings of the config."""
        for setting in self._settings.values():
            setting.reset()

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Go on with those of the schedule, for loops without epochs."""
        if self._settings:
            self._apply(runner, by_epoch=True)

    def _apply(self, runner: Runner, by_epoch: bool) -> None:
        time = runner.epoch if by_epoch else runner.iter
        for schedule in self.schedules:
            if schedule.by_epoch != by_epoch:
                continue
            value = self._settings[schedule.param].set(schedule.value_at(time))
            runner.message_hub.update_scalar(f'train/{schedule.param}', value)


def _read(schedule: dict[str, Any]) -> _Schedule:
    """Check what can be checked without the model."""
    given = dict(schedule)
    param = given.pop('param', None)
    if not isinstance(param, str):
        raise ValueError(
            f'schedule {schedule} needs param, the dotted name of a setting '
            "like 'threat_model.eps'"
        )
    curve = given.pop('curve', 'linear')
    if curve not in CURVES:
        raise ValueError(
            f'curve={curve!r} of {param!r} is unknown: choose one of '
            f'{list(CURVES)}'
        )
    by_epoch = given.pop('by_epoch', True)
    written = tuple(given.pop('values', ()))
    values = [_number(value, param) for value in written]
    milestones = list(given.pop('milestones', ()))
    if given:
        raise ValueError(
            f'schedule of {param!r} has unknown settings {sorted(given)}'
        )
    if (
        not milestones
        or not all(isinstance(at, int) and at >= 0 for at in milestones)
        or any(a >= b for a, b in pairwise(milestones))
    ):
        raise ValueError(
            f'milestones={milestones} of {param!r} must be ascending whole '
            'numbers of at least 0'
        )
    numbers = (
        (len(milestones) + 1, len(milestones)) if curve == 'step' else (2, 2)
    )
    if (len(values), len(milestones)) != numbers:
        raise ValueError(
            f'curve={curve!r} of {param!r} needs {numbers[0]} values and '
            f'{numbers[1]} milestones, but got {len(values)} and '
            f'{len(milestones)}'
        )
    return _Schedule(
        param, written, tuple(values), tuple(milestones), curve, by_epoch
    )


def _number(value: Pixels, param: str) -> float:
    return (
        parse_pixels(value, f'values of {param!r}')
        if isinstance(value, str)
        else float(value)
    )
