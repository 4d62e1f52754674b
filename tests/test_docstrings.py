"""The docstrings of the public names, by the rules of docstring_rules.py."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from docstring_rules import Documented, check
from torch import Tensor, nn

import m2at_mm


def _public() -> Iterator[Documented]:
    """Classes and functions in each ``__all__``, and their methods."""
    names = ['m2at_mm'] + [
        module.name
        for module in pkgutil.walk_packages(m2at_mm.__path__, 'm2at_mm.')
    ]
    for name in names:
        module = importlib.import_module(name)
        for key in getattr(module, '__all__', ()):
            what = getattr(module, key)
            if inspect.isclass(what):
                yield Documented(f'{name}.{key}', what)
                yield from _methods(f'{name}.{key}', what)
            elif inspect.isroutine(what):
                yield Documented(f'{name}.{key}', what)


def _methods(name: str, owner: type) -> Iterator[Documented]:
    """Those that the class defines, or a private base class for it."""
    for one in owner.__mro__:
        ours = one.__module__.startswith('m2at_mm.')
        if one is owner or (ours and one.__name__.startswith('_')):
            for key, what in vars(one).items():
                written = isinstance(
                    what, (property, classmethod, staticmethod)
                ) or inspect.isfunction(what)
                if written and (key[0] != '_' or key == '__call__'):
                    yield Documented(f'{name}.{key}', what, owner)


@pytest.mark.parametrize('one', _public(), ids=lambda one: one.name)
def test_public_names(one: Documented) -> None:
    assert check(one) == []


def undocumented() -> None: ...


def complete(images: Tensor, steps: int = 1) -> Tensor | None:
    """Do something.

    Args:
        images (Tensor): RGB in [0, 1],
            shape (N, C, H, W).
        steps (int): How many times: at least 1. Defaults to 1.

    Returns:
        Tensor, optional: Shape (N, ).

    Raises:
        ValueError: There are no steps.
    """
    if steps < 1:
        raise ValueError(steps)
    return images


def incomplete(images: Tensor, steps: int) -> Tensor:
    """Do something.

    Args:
        images (Tensor): Some.
        step (int): One.

    Raises:
        KeyError: Never.
    """
    if steps < 1:
        raise ValueError(steps)
    return images


def gives_nothing() -> None:
    """Do something.

    Returns:
        int: It does not.
    """


class Module(nn.Module):
    """A module.

    Args:
        depth (int): Of it.
    """

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        if depth != width:
            raise TypeError(depth)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        return inputs

    def train(self, mode: bool = True) -> Module:
        """See :class:`nn.Module`."""
        return self

    @property
    def logits(self) -> Tensor:
        """Logits."""
        raise NotImplementedError


class Deeper(Module):
    """A deeper module, with the arguments of :class:`Module`."""


@pytest.mark.parametrize(
    ('what', 'owner', 'complaints'),
    [
        (undocumented, None, ['has no docstring']),
        (complete, None, []),
        (
            incomplete,
            None,
            [
                'argument steps is not described',
                'argument step does not exist',
                'what it returns is not described',
                'ValueError is raised, but not listed',
                'KeyError is listed, but not raised',
                'argument images has no shape',
                'images images have no range',
                'what it returns has no shape',
            ],
        ),
        (gives_nothing, None, ['Returns, but it is None']),
        (
            Module,
            None,
            [
                'argument width is not described',
                'TypeError is raised, but not listed',
            ],
        ),
        (
            Module.forward,
            Module,
            [
                'argument inputs is not described',
                'what it returns is not described',
                'what it returns has no shape',
            ],
        ),
        (Module.train, Module, []),
        (Module.logits, Module, ['what it returns has no shape']),
        (Deeper, None, []),
    ],
    ids=lambda value: getattr(value, '__name__', None),
)
def test_rules(what: Any, owner: type | None, complaints: list[str]) -> None:
    assert check(Documented('', what, owner)) == complaints
