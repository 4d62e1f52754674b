"""AutoAttack with few steps, where its strength is not what is tested."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from m2at_mm.attacks import AutoAttack

_package = AutoAttack._package


def _short(attack: AutoAttack, *args: Any) -> Any:
    package = _package(attack, *args)
    package.apgd.n_iter = 2
    package.square.n_queries = 20
    return package


@contextmanager
def quick_autoattack() -> Iterator[None]:
    """Two iterations of APGD and twenty queries of Square inside."""
    with mock.patch.object(AutoAttack, '_package', _short):
        yield
