"""Settings of the attack and the method that change over training."""

import inspect
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from m2at_mm.attacks.threat_model import Pixels, parse_pixels
from m2at_mm.checks import check_choice, check_number
from m2at_mm.methods import Standard
from m2at_mm.model_wrappers import bare_model
from m2at_mm.registry import HOOKS
from m2at_mm.runner.train_loops import refuse_epochs

CURVES = ('linear', 'cosine', 'step')
_OWNERS = ('threat_model', 'train_attack', 'method')


@HOOKS.register_module()
class AttackScheduleHook(Hook):
    """Change settings of the threat model, attack or method while training.

    The value depends on epoch or iteration alone, and is logged under the
    setting's name. Validation uses the settings of the config.

    Args:
        schedules (Sequence[dict]): One per setting, with

            - ``param`` (str): Dotted name of a number that the threat model,
              the train attack or the method was given, like
              ``'threat_model.eps'``, ``'train_attack.steps'`` (rounded) or
              ``'method.scale'``; or ``'label_smoothing'``.
            - ``values`` (Sequence[float | str]): The first and the last
              value; for ``'step'``, one more than there are milestones. Sizes
              in pixels also as ``'8/255'``.
            - ``milestones`` (Sequence[int]): Epochs or iterations, counted
              from 0, where the change begins and where it ends; for
              ``'step'``, where each next value begins.
            - ``curve`` (str): ``'linear'`` (default), ``'cosine'`` (half a
              period) or ``'step'``.
            - ``by_epoch`` (bool): Whether milestones are epochs (default),
              else iterations, as a loop by iterations needs.

    Raises:
        ValueError: A schedule is incomplete or contradicts itself, or the
            training does not use the setting or does not allow a value.

    Example:
        >>> dict(param='threat_model.eps', values=['0/255', '8/255'],
        ...      milestones=[0, 10])
    """

    def __init__(self, schedules: Sequence[dict[str, Any]]) -> None:
        known = {one.name for one in fields(_Schedule)}
        for schedule in schedules:
            unknown = schedule.keys() - known
            if unknown or not isinstance(schedule.get('param'), str):
                raise ValueError(
                    f'schedule {schedule} needs param, the dotted name of a '
                    "setting like 'threat_model.eps', and no unknown settings "
                    f'{sorted(unknown)}'
                )
        self.schedules = [_Schedule(**schedule) for schedule in schedules]
        names = [schedule.param for schedule in self.schedules]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f'schedules set {sorted(twice)} more than once')

    def before_train(self, runner: Runner) -> None:
        for schedule in self.schedules:
            if schedule.by_epoch:
                refuse_epochs(runner, f'the schedule of {schedule.param!r}')
            schedule.bind(bare_model(runner.model))

    def before_train_epoch(self, runner: Runner) -> None:
        self._apply(runner, by_epoch=True)

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        self._apply(runner, by_epoch=False)

    def before_val_epoch(self, runner: Runner) -> None:
        for schedule in self.schedules:
            schedule.reset()

    def after_val_epoch(self, runner: Runner, **_: Any) -> None:
        """Go on with those of the schedule, for loops without epochs."""
        self._apply(runner, by_epoch=True)

    def _apply(self, runner: Runner, by_epoch: bool) -> None:
        time = runner.epoch if by_epoch else runner.iter
        for schedule in self.schedules:
            if schedule.by_epoch == by_epoch and schedule.owner is not None:
                value = schedule.apply(time)
                name = f'train/{schedule.param}'
                runner.message_hub.update_scalar(name, value)


@dataclass
class _Schedule:
    """A setting's value by epoch or iteration, as the config has it."""

    param: str
    values: Sequence[Pixels] = ()
    milestones: Sequence[int] = ()
    curve: str = 'linear'
    by_epoch: bool = True

    def __post_init__(self) -> None:
        param, at = self.param, list(self.milestones)
        # What has the setting, once training begins.
        self.owner: Any = None
        check_choice(f'curve of {param!r}', self.curve, CURVES)
        self._numbers = [
            parse_pixels(value, f'values of {param!r}')
            if isinstance(value, str)
            else float(value)
            for value in self.values
        ]
        whole = all(isinstance(time, int) and time >= 0 for time in at)
        if not at or not whole or at != sorted(set(at)):
            raise ValueError(
                f'milestones={at} of {param!r} must be ascending whole '
                'numbers of at least 0'
            )
        given = (len(self.values), len(at))
        needed = (len(at) + 1, len(at)) if self.curve == 'step' else (2, 2)
        if given != needed:
            raise ValueError(
                f'curve={self.curve!r} of {param!r} needs %s values and %s '
                'milestones, but got %s and %s' % (*needed, *given)
            )

    def bind(self, model: Any) -> None:
        part, _, self._name = self.param.rpartition('.')
        self.owner, self._kinds = getattr(model, part, None), {'float'}
        if self.param == 'label_smoothing' and hasattr(model, self.param):
            self.owner = model
        else:
            self._kinds = self._find(part)
            self._check_used(model, part)
        self._configured = getattr(self.owner, self._name)
        for value in self.values:
            self._check(value)

    def _find(self, part: str) -> set[str]:
        """The types that the setting may have, if it is a number."""
        owner, name, known = self.owner, self._name, {}
        if owner is not None and part in _OWNERS:
            known = _arguments(type(owner))
        if name not in known or not hasattr(owner, name):
            has = f', {type(owner).__name__} has {list(known)}' * bool(known)
            raise ValueError(
                f'param={self.param!r} is no setting of the model: only '
                'numbers of its threat_model, train_attack and method, like '
                "'threat_model.eps', and label_smoothing can be "
                f'scheduled{has}'
            )
        value, annotation = getattr(owner, name), known[name]
        if annotation is inspect.Parameter.empty:
            annotation = float if type(value) is int else type(value)
        kinds = set(re.findall(r'\w+', str(annotation)))
        if not kinds & {'int', 'float', 'Pixels'}:
            raise ValueError(
                f'param={self.param!r} is {value!r}, but only numbers can be '
                'scheduled'
            )
        return kinds

    def _check_used(self, model: Any, part: str) -> None:
        method, used = model.method, f'method={type(model.method).__name__}'
        if part == 'train_attack':
            unused = not method.needs_attack
        elif part == 'threat_model':
            unused = isinstance(method, Standard)
        else:
            mask = getattr(method, 'mask', 'patch')
            unused = self._name == 'patch_size' and mask != 'patch'
            used = f'method.mask={mask!r}'
        if unused:
            raise ValueError(
                f'param={self.param!r} would change nothing, as {used} does '
                'not use it in training: remove the schedule'
            )

    def _check(self, value: Pixels) -> None:
        if isinstance(value, str) and not self._kinds & {'str', 'Pixels'}:
            value = parse_pixels(value, self._name)
        if not isinstance(value, str):
            value = self._rounded(value)
        if self._name == 'label_smoothing':
            check_number(self._name, value, 0, below=1)
            return
        # The owner's twin knows what it allows.
        kind = type(self.owner)
        given = {name: getattr(self.owner, name) for name in _arguments(kind)}
        kind(**{**given, self._name: value})

    def apply(self, time: int) -> float:
        """Set and return the value in epoch or iteration ``time``, from 0."""
        numbers, at = self._numbers, self.milestones
        if self.curve == 'step':
            value = numbers[sum(time >= begin for begin in at)]
        else:
            share = min(1.0, max(0, time - at[0]) / (at[1] - at[0]))
            if self.curve == 'cosine':
                share = (1 - math.cos(math.pi * share)) / 2
            value = numbers[0] + share * (numbers[1] - numbers[0])
        value = self._rounded(value)
        setattr(self.owner, self._name, value)
        return float(value)

    def reset(self) -> None:
        if self.owner is not None:
            setattr(self.owner, self._name, self._configured)

    def _rounded(self, value: float) -> float:
        return value if self._kinds & {'float', 'Pixels'} else round(value)


def _arguments(kind: type) -> dict[str, Any]:
    parameters = inspect.signature(kind).parameters
    return {name: one.annotation for name, one in parameters.items()}
