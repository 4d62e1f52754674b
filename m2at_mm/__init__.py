"""M2AT adversarial training for mmpretrain classifiers.

Importing the package only checks the installed versions and makes MMEngine's
checkpoints loadable (:mod:`m2at_mm.compat`). The parts are registered when
MMEngine first asks for a type that starts with ``m2at_mm.``.
"""

from m2at_mm import compat
from m2at_mm.version import __version__

compat.apply()

__all__ = ['__version__']
