"""Finished parts of an evaluation on disk, so that none is done twice."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from torch import nn

from m2at_mm.runner.atomic_files import write_whole

Arrays = dict[str, np.ndarray]


def digest(*parts: Any) -> str:
    """Twelve hexadecimal digits that stand for settings and arrays.

    Args:
        *parts: Bytes, NumPy arrays, or what JSON can hold; anything else by
            its ``repr``.
    """
    whole = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            part = part.tobytes()
        if not isinstance(part, bytes):
            part = json.dumps(part, sort_keys=True, default=repr).encode()
        whole.update(len(part).to_bytes(8, 'little') + part)
    return whole.hexdigest()[:12]


def digest_module(module: nn.Module) -> str:
    """:func:`digest` of a module's parameters and buffers."""
    parts: list[Any] = []
    # Mean and std of a preprocessor are buffers outside of the state dict.
    tensors = {**dict(module.named_buffers()), **module.state_dict()}
    for name, value in tensors.items():
        flat = value.detach().cpu().contiguous().flatten()
        parts += [name, str(value.dtype), list(value.shape)]
        parts.append(flat.view(torch.uint8).numpy().tobytes())
    return digest(*parts)


class ResultStore:
    """A folder of small files, each written whole or not at all.

    A process may be killed at any time: a file is written beside its place
    and renamed, so what is there is complete.

    Args:
        folder (Path): Made when something is written.
        settings (dict): What all results in the folder depend on; kept in
            ``settings.json`` for the reader. Give every set of settings a
            folder of its own, named by :func:`digest`.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self._settings = settings

    def load_arrays(self, name: str) -> Optional[Arrays]:
        """What :meth:`save_arrays` wrote.

        Args:
            name (str): What it was kept under.

        Returns:
            dict[str, np.ndarray], optional: None if there is nothing.
        """
        path = self.folder / f'{name}.npz'
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as file:
            return dict(file)

    def save_arrays(self, name: str, arrays: Arrays) -> None:
        """Keep arrays.

        Args:
            name (str): To be found by; it may have folders in it.
            arrays (dict[str, np.ndarray]): Of any shapes.
        """
        self._describe()
        save_npz(self.folder / f'{name}.npz', arrays)

    def load_dict(self, name: str) -> Optional[dict[str, Any]]:
        """What :meth:`save_dict` wrote.

        Args:
            name (str): What it was kept under.

        Returns:
            dict, optional: None if there is nothing.
        """
        path = self.folder / f'{name}.json'
        return json.loads(path.read_text()) if path.is_file() else None

    def save_dict(self, name: str, content: dict[str, Any]) -> None:
        """Keep settings or figures.

        Args:
            name (str): To be found by; it may have folders in it.
            content (dict): Of JSON's types; anything else is kept as its
                ``repr``.
        """
        self._describe()
        self._write_json(name, content)

    def _describe(self) -> None:
        if not (self.folder / 'settings.json').exists():
            self._write_json('settings', self._settings)

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=2, default=repr) + '\n'
        write_whole(
            self.folder / f'{name}.json', lambda path: path.write_text(text)
        )


def save_npz(path: Path, arrays: Arrays) -> None:
    """Write arrays compressed; see :func:`write_whole`."""

    def write(beside: Path) -> None:
        with beside.open('wb') as file:  # NumPy adds a suffix to a plain name
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    write_whole(path, write)
