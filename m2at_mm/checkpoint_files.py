"""Checkpoints are data: what may be in them, on every version of PyTorch.

Since PyTorch 2.6 ``torch.load`` refuses what is not on its list. Older ones
read with the same rule here: their own one lets archives run code
(CVE-2025-32434), and has no place for MMEngine's types.
"""

import codecs
import pickle
import tarfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from torch import _weights_only_unpickler as weights_only
from torch import serialization

from m2at_mm.compat import release

#: Whether ``torch.load`` has the rule.
RESTRICTS_ITSELF = release(torch.__version__) >= [2, 6]
_load = torch.load
_PythonUnpickler: Any = pickle._Unpickler  # typeshed tells nothing of it


def read(file: Any, map_location: Any = 'cpu') -> Any:
    """Read a checkpoint in which nothing is run.

    Args:
        file (Any): Path or binary file.
        map_location (Any): As for :func:`torch.load`.

    Returns:
        Any: Content, of types that PyTorch's ``weights_only=True`` knows, and
        MMEngine's log values.
    """
    if RESTRICTS_ITSELF:
        return _load(file, map_location=map_location, weights_only=True)
    with serialization._open_file_like(file, 'rb') as opened:
        _refuse_archives(opened)
        return _load(opened, map_location, _RESTRICTED, weights_only=False)


def allow_mmengine_types() -> None:
    """Let ``weights_only=True`` of PyTorch read MMEngine's log values."""
    if RESTRICTS_ITSELF:
        known: Any = [(one, name) for name, one in _mmengine_types().items()]
        serialization.add_safe_globals(known)


def protect_mmengine() -> None:
    """Let MMEngine load checkpoints, local or by URL, by :func:`read` only.

    MMEngine names no ``weights_only``, and PyTorch's function for URLs sets
    it to False.
    """
    from mmengine.runner import CheckpointLoader

    stock = CheckpointLoader.load_checkpoint

    def load_checkpoint(*args: Any, **settings: Any) -> Any:
        with _reading_data_only():
            return stock(*args, **settings)

    CheckpointLoader.load_checkpoint = staticmethod(load_checkpoint)


@contextmanager
def _reading_data_only() -> Iterator[None]:
    def load(file: Any, map_location: Any = None, *_: Any, **__: Any) -> Any:
        return read(file, map_location)

    stock, torch.load = torch.load, load  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.load = stock


def _mmengine_types() -> dict[str, Any]:
    """What MMEngine's checkpoints hold besides, by the names in the file."""
    core = '_core' if release(np.__version__) >= [2] else 'core'
    multiarray = getattr(np, core).multiarray
    known = {
        # HistoryBuffer pickles NumPy arrays and its own statistics methods.
        'mmengine.logging.history_buffer.HistoryBuffer': HistoryBuffer,
        'builtins.getattr': _statistics_method,
        'numpy.ndarray': np.ndarray,
        'numpy.dtype': np.dtype,
    }
    for place in ('numpy.core', 'numpy._core'):  # of NumPy 1 and 2
        known[f'{place}.multiarray._reconstruct'] = multiarray._reconstruct
        known[f'{place}.multiarray.scalar'] = multiarray.scalar
    for logged in ('float64', 'float32', 'int64', 'int32', 'bool'):
        kind = type(np.dtype(logged))
        known[f'{kind.__module__}.{kind.__name__}'] = kind
    return known


def _statistics_method(owner: Any, name: str) -> Any:
    """What ``getattr`` in a checkpoint may get: HistoryBuffer's statistics."""
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(HistoryBuffer, name)
    raise ValueError(
        f'the checkpoint asks for attribute {name!r} of {owner!r}, which no '
        'MMEngine checkpoint does: do not trust the file'
    )


# --- for PyTorch before 2.6 ---


@cache
def _known() -> dict[str, Any]:
    """The list of PyTorch 2.6, as far as checkpoints here hold it."""
    dtypes = {
        str(t): t for t in vars(torch).values() if type(t) is torch.dtype
    }
    return {
        **weights_only._get_allowed_globals(),
        **dtypes,
        'torch.device': torch.device,
        '_codecs.encode': codecs.encode,  # bytes
        'builtins.complex': complex,
        'builtins.set': set,
        **_mmengine_types(),
    }


class _Unpickler(_PythonUnpickler):
    """Python's unpickler with PyTorch's rule: it knows the list alone."""

    dispatch = dict(_PythonUnpickler.dispatch)

    def load(self) -> Any:
        """Read the file; a damaged one is an UnpicklingError."""
        try:
            return super().load()
        except (LookupError, AttributeError, AssertionError) as error:
            raise pickle.UnpicklingError(f'no pickle: {error!r}') from error

    def find_class(self, module: str, name: str) -> Any:
        """Look a global of the file up in the list, never import it."""
        if (module, name) in NAME_MAPPING:  # Python 2's, as torch.save writes
            module, name = NAME_MAPPING[module, name]
        path = f'{IMPORT_MAPPING.get(module, module)}.{name}'
        if path not in _known():
            _refuse(path)
        return _known()[path]

    def load_build(self) -> None:
        """Set the state of an instance, never attributes of a class."""
        kind = type(self.stack[-2])
        if not any(kind is known for known in _known().values()):
            _refuse(f'a state for a {kind.__name__}')
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


def _refuse(what: str) -> None:
    raise pickle.UnpicklingError(f'{what} is not allowed in a checkpoint')


def _refuse_archives(file: Any) -> None:
    """Refuse a TorchScript program or a tar file, as PyTorch 2.6 does."""
    if serialization._is_zipfile(file):
        with serialization._open_zipfile_reader(file) as opened:
            if serialization._is_torchscript_zip(opened):
                _refuse('a TorchScript program')
    elif tarfile.is_tarfile(file):
        _refuse('a tar archive')
    file.seek(0)


# What `pickle_module` of torch.load asks for.
_RESTRICTED = SimpleNamespace(
    __name__=__name__,
    Unpickler=_Unpickler,
    load=lambda file, **settings: _Unpickler(file, **settings).load(),
)
