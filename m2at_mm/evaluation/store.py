"""Finished parts of an evaluation on disk, so that none is done twice."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from torch import Tensor, nn

from m2at_mm.files import write_whole

Arrays = dict[str, np.ndarray]


def digest(*parts: Any) -> str:
    """Twelve hexadecimal digits that stand for settings and arrays."""
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
        parts.append(flat.view(torch.uint8).numpy())
    return digest(*parts)


def to_json(content: Any) -> str:
    """JSON that every reader takes; what it lacks, like NaN, by ``repr``."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(one) for one in value]
        broken = isinstance(value, float) and not math.isfinite(value)
        return repr(float(value)) if broken else value

    text = json.dumps(plain(content), indent=2, default=repr, allow_nan=False)
    return text + '\n'


@dataclass
class ResultStore:
    """A folder of small files, each written whole or not at all.

    All results in the folder depend on the ``settings``; adversarial images
    are kept where an ``images_folder`` is given.
    """

    folder: Path
    settings: dict[str, Any]
    images_folder: Path | None = None

    def for_images(self, images: str) -> ResultStore:
        """Make a store inside of this one for results on certain images.

        A :func:`digest` of the images' content and labels is one of its
        settings, by which its folder is named. The log says so where the
        results kept there are of other settings.
        """
        settings = dict(self.settings, images=images)
        folder = self.folder / digest(settings)
        store = ResultStore(folder, settings, self.images_folder)
        if store.load_dict('settings') is not None:
            return store
        others = self.folder.glob('*/settings.json')
        last = max(others, key=lambda f: f.stat().st_mtime_ns, default=None)
        if is_main_process():
            store.save_dict('settings', settings)
        if last is not None:
            before = json.loads(last.read_text())
            now = json.loads(to_json(settings))
            keys = sorted({*before, *now})
            changed = [k for k in keys if before.get(k) != now.get(k)]
            told = f'starting anew: {last.parent} holds the results of an '
            told += f'evaluation that differs in {", ".join(changed)}'
            print_log(told, logger='current')
        return store

    def load_batch(self, name: str) -> Arrays | None:
        """The arrays that :meth:`save_batch` wrote, None if anything lacks."""
        paths = [*self._files(name)]
        if not all(path.is_file() for path in paths):
            return None
        with np.load(paths[-1], allow_pickle=False) as file:
            return dict(file)

    def save_batch(self, name: str, arrays: Arrays, images: Tensor) -> None:
        """Keep arrays and images under a name, which may have folders."""
        *with_images, alone = self._files(name)
        for path in with_images:
            save_npz(path, dict(arrays, adversarial=images.cpu().numpy()))
        save_npz(alone, arrays)

    def _files(self, name: str) -> Iterator[Path]:
        if self.images_folder is not None:
            # The folder's name stands for weights, data, seed and batch size.
            yield self.images_folder / self.folder.name / f'{name}.npz'
        yield self.folder / f'{name}.npz'

    def load_dict(self, name: str) -> dict[str, Any] | None:
        """What :meth:`save_dict` wrote, None if there is nothing."""
        path = self.folder / f'{name}.json'
        return json.loads(path.read_text()) if path.is_file() else None

    def save_dict(self, name: str, content: dict[str, Any]) -> None:
        """Keep a dict under a name, see :func:`to_json`."""
        path, text = self.folder / f'{name}.json', to_json(content)
        write_whole(path, lambda file: file.write_text(text))


def save_npz(path: Path, arrays: Arrays) -> None:
    """Write arrays compressed; see :func:`write_whole`."""

    def write(beside: Path) -> None:
        with beside.open('wb') as file:  # NumPy adds a suffix to a plain name
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    write_whole(path, write)
