"""Numbers of a training's threat model, attack and method, by their name."""

from __future__ import annotations

import inspect
import typing
from typing import Any

from m2at_mm.attacks.threat_model import Pixels, parse_pixels
from m2at_mm.methods import M2AT, Standard

_OWNERS = ('threat_model', 'train_attack', 'method')


class Setting:
    """A number that can be changed while training.

    Args:
        owner: Object that has it.
        name (str): Name of the attribute, and of the constructor's argument.
        kinds (set[type]): Types that the argument may have.
    """

    def __init__(self, owner: Any, name: str, kinds: set[type]) -> None:
        self._owner = owner
        self._name = name
        self._configured = getattr(owner, name)
        self._whole = float not in kinds
        self._may_be_text = str in kinds

    def check(self, value: Pixels) -> None:
        """Refuse a value that the setting does not allow.

        Args:
            value (str | float): The value as a config would have it.

        Raises:
            ValueError: It is out of its range.
        """
        if self._name == 'label_smoothing':
            if not 0 <= parse_pixels(value, self._name) < 1:
                raise ValueError(
                    f'label_smoothing={value!r} must be at least 0 and below 1'
                )
            return
        if isinstance(value, str) and not self._may_be_text:
            value = parse_pixels(value, self._name)
        # The owner's twin knows what it allows.
        kind = type(self._owner)
        settings = {
            name: getattr(self._owner, name) for name in _parameters(kind)
        }
        settings[self._name] = (
            value if isinstance(value, str) else self._rounded(value)
        )
        kind(**settings)

    def set(self, value: float) -> float:
        """Change the setting.

        Args:
            value (float): On the scale of images in [0, 1] if it is a size.

        Returns:
            float: The value that is in force, rounded for a whole number.
        """
        value = self._rounded(value)
        setattr(self._owner, self._name, value)
        return float(value)

    def _rounded(self, value: float) -> float:
        return round(value) if self._whole else value

    def reset(self) -> None:
        """Give the setting the value of the config again."""
        setattr(self._owner, self._name, self._configured)


def find_setting(model: Any, param: str) -> Setting:
    """Find a setting that is a number and is used in training.

    Args:
        model (AdversarialClassifier): The model, without a wrapper.
        param (str): Dotted name like ``'threat_model.eps'``.

    Returns:
        Setting: The setting.

    Raises:
        ValueError: There is none of this name, it is no number, or nothing
            in this training uses it.
    """
    part, _, name = param.rpartition('.')
    if param == 'label_smoothing' and hasattr(model, param):
        return Setting(model, param, {float})
    owner = getattr(model, part, None) if part in _OWNERS else None
    if owner is None:
        raise ValueError(
            f'param={param!r} is no setting of the model: only numbers of its '
            "threat_model, train_attack and method, like 'threat_model.eps', "
            'and label_smoothing can be scheduled'
        )
    parameters = _parameters(type(owner))
    if name not in parameters or not hasattr(owner, name):
        raise ValueError(
            f'param={param!r} is no setting of the model: '
            f'{type(owner).__name__} has {parameters}'
        )
    kinds = _kinds(type(owner), name, getattr(owner, name))
    if not kinds & {int, float}:
        raise ValueError(
            f'param={param!r} is {getattr(owner, name)!r}, but only numbers '
            'can be scheduled'
        )
    _check_used(model, part, name)
    return Setting(owner, name, kinds)


def _check_used(model: Any, part: str, name: str) -> None:
    method = model.method
    used = f'method={type(method).__name__}'
    if part == 'train_attack':
        unused = not method.needs_attack
    elif part == 'threat_model':
        unused = isinstance(method, Standard)
    else:
        unused = name == 'patch_size' and isinstance(method, M2AT)
        unused = unused and method.mask != 'patch'
        used = f'method.mask={getattr(method, "mask", None)!r}'
    if unused:
        raise ValueError(
            f"param='{part}.{name}' would change nothing, as {used} does not "
            'use it in training: remove the schedule'
        )


def _parameters(kind: type) -> list[str]:
    """Names of the constructor's arguments."""
    return list(inspect.signature(kind).parameters)


def _kinds(kind: type, name: str, value: Any) -> set[type]:
    """Types that an argument may have; the value's if it is not annotated."""
    try:
        hints = typing.get_type_hints(kind.__init__)  # type: ignore[misc]
    except NameError:  # imported for type checkers alone
        hints = {}
    if name not in hints:
        return {float} if type(value) is int else {type(value)}
    todo, found = [hints[name]], set()
    while todo:
        hint = todo.pop()
        inner = typing.get_args(hint)
        todo += inner
        if not inner:
            found.add(hint)
    return found
