"""Finished parts of an evaluation on disk, so that none is done twice."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch import nn

from m2at_mm.files import write_whole

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


def to_json(content: Any) -> str:
    """JSON that every reader takes.

    Args:
        content: Of JSON's types; anything else is written as its ``repr``,
            and so is a number that is not finite.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(one) for one in value]
        finite = not isinstance(value, float) or math.isfinite(value)
        return value if finite else repr(float(value))

    text = json.dumps(plain(content), indent=2, default=repr, allow_nan=False)
    return text + '\n'


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
        self.settings = settings

    def for_images(self, images: str) -> ResultStore:
        """A store inside of this one for results on certain images.

        The log says so where another evaluation is kept there, but can't be
        gone on with.

        Args:
            images (str): A :func:`digest` of their content and labels.

        Returns:
            ResultStore: ``images`` is one of its settings, and its folder is
            named by a digest of them.
        """
        settings = dict(self.settings, images=images)
        store = ResultStore(self.folder / digest(settings), settings)
        kept = sorted(
            self.folder.glob('*/settings.json'),
            key=lambda path: path.stat().st_mtime_ns,
        )
        if kept and store.load_dict('settings') is None:
            before = json.loads(kept[-1].read_text())
            now = json.loads(to_json(settings))
            changed = [
                name
                for name in sorted({*before, *now})
                if before.get(name) != now.get(name)
            ]
            print_log(
                f'starting anew: {kept[-1].parent} holds the results of an '
                f'evaluation that differs in {", ".join(changed)}',
                logger='current',
            )
        return store

    def load_arrays(self, name: str) -> Arrays | None:
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

    def load_dict(self, name: str) -> dict[str, Any] | None:
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
            self._write_json('settings', self.settings)

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        text = to_json(content)
        write_whole(
            self.folder / f'{name}.json', lambda path: path.write_text(text)
        )


def save_npz(path: Path, arrays: Arrays) -> None:
    """Write arrays compressed; see :func:`write_whole`."""

    def write(beside: Path) -> None:
        with beside.open('wb') as file:  # NumPy adds a suffix to a plain name
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    write_whole(path, write)
