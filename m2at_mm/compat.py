"""What MMEngine 0.10 needs on the PyTorch of today, and version checks.

Nothing here weakens a check of PyTorch or MMEngine: checkpoints are still
loaded with ``weights_only=True``; only the harmless types that MMEngine
itself writes are allow-listed.
"""

from __future__ import annotations

import re
import warnings
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

# distribution: (lowest version, first version too new or None)
_SUPPORTED = {
    'torch': ('2.1', None),
    'mmengine': ('0.10', '1'),
    'mmpretrain': ('1.2', None),
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

    Called once by ``import m2at_mm``; calling it again changes nothing.

    Raises:
        ImportError: A package is missing or its version is not supported.
            One message names every such package and the remedy.
    """
    check_environment()
    for message in _FOREIGN_WARNINGS:
        warnings.filterwarnings('ignore', message, UserWarning)
    allow_mmengine_checkpoints()


def check_environment() -> None:
    """Check that the packages m2at_mm stands on are there and fit.

    Raises:
        ImportError: A package is missing or its version is not supported.
    """
    problems = [
        problem
        for name, (lowest, too_new) in _SUPPORTED.items()
        for problem in [_version_problem(name, lowest, too_new)]
        if problem is not None
    ]
    if find_spec('mmcv') is None:
        problems.append(
            'mmcv is not installed: run `pip install mmcv-lite` (a wheel; '
            'no compiled operator of the full mmcv is needed)'
        )
    if find_spec('pkg_resources') is None:
        problems.append(
            'pkg_resources, which MMEngine imports, is not installed: run '
            "`pip install 'setuptools<81'`"
        )
    if problems:
        raise ImportError('m2at_mm cannot run here: ' + '; '.join(problems))


def _version_problem(
    name: str, lowest: str, too_new: str | None
) -> str | None:
    wanted = f'{name}>={lowest}' + (f',<{too_new}' if too_new else '')
    try:
        installed = version(name)
    except PackageNotFoundError:
        return f"{name} is not installed: run `pip install '{wanted}'`"
    numbers = _release(installed)
    fits = numbers >= _release(lowest) and (
        too_new is None or numbers < _release(too_new)
    )
    if fits:
        return None
    return f"{name} {installed} is not supported: run `pip install '{wanted}'`"


def _release(text: str) -> list[int]:
    """The numbers of a version's first two parts: '2.14.1+cpu' -> [2, 14]."""
    numbers = re.match(r'\d+(\.\d+)?', text)
    return [int(part) for part in numbers[0].split('.')] if numbers else []


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load(weights_only=True)`` read MMEngine's checkpoints.

    An MMEngine checkpoint holds the message hub, whose ``HistoryBuffer``
    pickles NumPy arrays and its own statistics methods. PyTorch 2.6 and later
    refuse these types unless they are allow-listed; before that
    ``weights_only`` was off by default.
    """
    import torch

    if _release(torch.__version__) < [2, 6]:
        return
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer

    multiarray = (getattr(np, '_core', None) or np.core).multiarray
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            np.ndarray,
            np.dtype,
            multiarray._reconstruct,
            multiarray.scalar,
            *_dtype_classes(),
            (_statistics_method, 'builtins.getattr'),
        ]
    )


def _statistics_method(owner: Any, name: str) -> Any:
    """What ``getattr`` in a checkpoint may get: HistoryBuffer's statistics.

    Raises:
        ValueError: Anything else is asked for.
    """
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(HistoryBuffer, name)
    raise ValueError(
        f'the checkpoint asks for attribute {name!r} of {owner!r}, which no '
        'MMEngine checkpoint does: do not trust the file'
    )


def _dtype_classes() -> list[Any]:
    """The classes of the dtypes that MMEngine logs: floats and integers."""
    import numpy as np

    names = ('float64', 'float32', 'int64', 'int32', 'bool')
    return sorted({type(np.dtype(name)) for name in names}, key=str)
