"""Checks of the installed packages, and what MMEngine needs beside them."""

import re
import warnings
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

# Distribution, its lowest version, and the first that is too new, if any.
_SUPPORTED = (
    ('torch', '2.1', None),
    ('mmengine', '0.10.6', '1'),
    ('mmpretrain', '1.2', None),
)
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
    for message in _FOREIGN_WARNINGS:
        warnings.filterwarnings('ignore', message, UserWarning)
    problems = [_version_problem(*one) for one in _SUPPORTED]
    problems += [_numpy_problem(), _mmcv_problem(), _pkg_resources_problem()]
    text = '; '.join(filter(None, problems))
    if text:
        raise ImportError(f'm2at_mm cannot run here: {text}')
    from m2at_mm import checkpoint_files

    checkpoint_files.allow_mmengine_types()


def _version_problem(name: str, lowest: str, too_new: str | None) -> str:
    wanted = f'{name}>={lowest}' + (f',<{too_new}' if too_new else '')
    try:
        installed = version(name)
    except PackageNotFoundError:
        return f"{name} is not installed: run `pip install '{wanted}'`"
    numbers = release(installed)
    old_enough = too_new is None or numbers < release(too_new)
    if old_enough and numbers >= release(lowest):
        return ''
    return f"{name} {installed} is not supported: run `pip install '{wanted}'`"


def _numpy_problem() -> str:
    try:
        torch, numpy = version('torch'), version('numpy')
    except PackageNotFoundError:
        return ''  # of torch it is said already, and nothing runs without it
    if release(torch) >= [2, 3] or release(numpy) < [2]:
        return ''
    return (
        f'torch {torch} was built for NumPy 1 and numpy {numpy} is '
        "installed: run `pip install 'numpy<2'`"
    )


def _mmcv_problem() -> str:
    if find_spec('mmcv'):
        return ''
    return (
        'mmcv is not installed: run `pip install mmcv-lite` (a wheel; no '
        'compiled operator of the full mmcv is needed)'
    )


def _pkg_resources_problem() -> str:
    try:
        import_module('pkg_resources')
    except ImportError:
        state = 'installed'
    except Exception:  # an old setuptools on Python 3.12, as openmim wants it
        state = 'fit for this version of Python'
    else:
        return ''
    return (
        f'pkg_resources, which MMEngine imports, is not {state}: run `pip '
        "install 'setuptools>=66.1,<81'`"
    )


def release(text: str) -> list[int]:
    """The numbers that a version begins with: '2.14.1+cpu' -> [2, 14, 1]."""
    numbers = re.match(r'\d+(\.\d+)*', text)
    return [int(part) for part in numbers[0].split('.')] if numbers else []
