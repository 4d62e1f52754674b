"""Files of generated images, and datasets with them."""

from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.lib import format as npy
from PIL import Image

DATA = Path(__file__).with_name('data')
PACKED = [dict(type='PackInputs')]
WHOLE = dict(pipeline=PACKED, whole_batches=True)
ORIGINAL = dict(type='m2at_mm.Digits', indices=24, serialize_data=False)


def arrays() -> dict[str, np.ndarray]:
    """Three real images of each class in place of generated ones."""
    folders = sorted((DATA / 'cifar10' / 'train').iterdir())
    files = [file for one in folders for file in sorted(one.iterdir())[:3]]
    images = np.stack([np.asarray(Image.open(file)) for file in files])
    return dict(image=images, label=np.repeat(np.arange(10), 3))


def save(folder: Path, **changes: Any) -> str:
    """Write the arrays, some of them changed or, with None, left out."""
    path = folder / 'generated.npz'
    kept = arrays() | changes
    np.savez(path, **{k: v for k, v in kept.items() if v is not None})
    return str(path)


def save_sparse(folder: Path, num: int) -> str:
    """Write ``num`` black images of class 0 that take no space on a disk."""
    path = folder / 'sparse.npz'
    shapes = dict(image=(num, 32, 32, 3), label=(num,))
    with ZipFile(path, 'w') as archive:
        for name, shape in shapes.items():
            kind = np.dtype(np.uint8 if name == 'image' else np.int64)
            hole = int(np.prod(shape)) * kind.itemsize
            with archive.open(f'{name}.npy', 'w', force_zip64=True) as file:
                header = dict(shape=shape, fortran_order=False)
                descr = npy.dtype_to_descr(kind)
                npy.write_array_header_1_0(file, dict(header, descr=descr))
                file._fileobj.seek(hole, 1)  # type: ignore[attr-defined]
                file._file_size += hole  # type: ignore[attr-defined]
    return str(path)


def both(path: str, **original: Any) -> dict[str, Any]:
    """Config of a dataset of digits and, behind them, generated images."""
    return dict(
        type='m2at_mm.OriginalAndGenerated',
        original=ORIGINAL | WHOLE | original,
        generated=dict(type='m2at_mm.GeneratedImages', ann_file=path),
    )
