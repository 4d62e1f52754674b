"""What MMEngine 0.10 needs on the PyTorch of today, and version checks.

Checkpoints still load with ``weights_only=True``: MMEngine's own harmless
types alone are allow-listed.
"""

import re
import warnings
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

# Distribution, its lowest version, and the first that is too new, if any.
_SUPPORTED = (
    ('torch', '2.1', None),
    ('mmengine', '0.10', '1'),
    ('mmpretrain', '1.2', None),
)
# module: what is said where it is missing
_NEEDED = {
    'mmcv': 'mmcv is not installed: run `pip install mmcv-lite` (a wheel; '
    'no compiled operator of the full mmcv is needed)',
    'pkg_resources': 'pkg_resources, which MMEngine imports, is not '
    "installed: run `pip install 'setuptools<81'`",
}
# Warnings of imports that nobody here can mend.
_FOREIGN_WARNINGS = (
    # mmengine 0.10 imports it, so setup.py keeps setuptools below 81.
    'pkg_resources is deprecated',
    # mmcv-lite has no compiled operators, and no classifier needs them.
    'Fail to import ``MultiScaleDeformableAttention``',
)


def apply() -> None:
    """Check the installed packages and make MMEngine's checkpoints loadable.

    Raises:
        ImportError: Packages are missing or not supported; it names them all.
    """
    problems = [_version_problem(*one) for one in _SUPPORTED]
    problems += [_NEEDED[name] for name in _NEEDED if find_spec(name) is None]
    text = '; '.join(filter(None, problems))
    if text:
        raise ImportError(f'm2at_mm cannot run here: {text}')
    for message in _FOREIGN_WARNINGS:
        warnings.filterwarnings('ignore', message, UserWarning)
    _allow_mmengine_checkpoints()


def _version_problem(name: str, lowest: str, too_new: str | None) -> str:
    wanted = f'{name}>={lowest}' + (f',<{too_new}' if too_new else '')
    try:
        installed = version(name)
    except PackageNotFoundError:
        return f"{name} is not installed: run `pip install '{wanted}'`"
    numbers = _release(installed)
    old_enough = too_new is None or numbers < _release(too_new)
    if old_enough and numbers >= _release(lowest):
        return ''
    return f"{name} {installed} is not supported: run `pip install '{wanted}'`"


def _release(text: str) -> list[int]:
    """The numbers of a version's first two parts: '2.14.1+cpu' -> [2, 14]."""
    numbers = re.match(r'\d+(\.\d+)?', text)
    return [int(part) for part in numbers[0].split('.')] if numbers else []


def _allow_mmengine_checkpoints() -> None:
    import torch

    if _release(torch.__version__) < [2, 6]:
        return
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer

    # HistoryBuffer pickles NumPy arrays and its own statistics methods, which
    # PyTorch refuses since 2.6 unless they are allow-listed.
    multiarray = (getattr(np, '_core', None) or np.core).multiarray
    logged = ('float64', 'float32', 'int64', 'int32', 'bool')
    known: list[Any] = [HistoryBuffer, np.ndarray, np.dtype]
    known += [multiarray._reconstruct, multiarray.scalar]
    known += [type(np.dtype(name)) for name in logged]
    known.append((_statistics_method, 'builtins.getattr'))
    torch.serialization.add_safe_globals(known)


def _statistics_method(owner: Any, name: str) -> Any:
    """What ``getattr`` in a checkpoint may get: HistoryBuffer's statistics."""
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(HistoryBuffer, name)
    raise ValueError(
        f'the checkpoint asks for attribute {name!r} of {owner!r}, which no '
        'MMEngine checkpoint does: do not trust the file'
    )
