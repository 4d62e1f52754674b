"""M2AT adversarial training for mmpretrain classifiers.

Importing the package only checks the installed versions and makes MMEngine's
checkpoints loadable (:mod:`m2at_mm.compat`). The parts are registered when
MMEngine first asks for a type that starts with ``m2at_mm.``.
"""

import importlib
from typing import Any

from m2at_mm import compat
from m2at_mm.version import __version__

compat.apply()

__all__ = ['__version__']

# Imported when they are first asked for, like m2at_mm.recipes.apply_recipe.
_PARTS = ('attacks', 'datasets', 'evaluation', 'hooks', 'methods', 'recipes')


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return importlib.import_module(f'm2at_mm.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
