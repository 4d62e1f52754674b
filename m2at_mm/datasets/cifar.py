"""CIFAR with a validation split: robust overfitting (arXiv 2002.11569)."""

import copy
import os
import os.path as osp
import socket
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import mmcv
import numpy as np
from mmengine import dist
from mmengine.logging import print_log
from mmengine.utils import scandir
from mmpretrain.datasets import CIFAR10 as _CIFAR10
from mmpretrain.datasets import CIFAR100 as _CIFAR100
from mmpretrain.datasets import utils

from m2at_mm.checks import check_choice, check_count
from m2at_mm.datasets.splits import SPLITS, round_robin, stratified_split
from m2at_mm.datasets.whole_batches import WholeBatches
from m2at_mm.registry import DATASETS

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp')
# Seconds without an answer after which a download is given up: mmpretrain's
# downloader sets no limit.
DOWNLOAD_TIMEOUT = 30.0


@DATASETS.register_module()
class CIFAR10(WholeBatches, _CIFAR10):
    """mmpretrain's CIFAR-10 with a validation split, also from image files.

    ``val`` is a fixed, class-balanced part of the training images, without
    which ``train`` is. The data are official files, or else image files::

        data_root/cifar-10-batches-py/data_batch_1 ...
        data_root/{train,test}/<class>/*.{png,jpg,jpeg,bmp}

    Samples of image files, and of ``val``, take turns over the classes, so
    that ``indices=N`` gives a balanced first N, and only these files are read.
    A sample has ``img``, RGB in 0..255, uint8, shape (32, 32, 3), and
    ``gt_label``. Further arguments: see mmpretrain, :class:`WholeBatches`.

    Args:
        split (str): 'train', 'val' or 'test'.
        download (bool): Whether to try to get the official files if there
            are no data; a failure leaves nothing behind. Defaults to True.
        val_size (int): Images in ``val``, a multiple of the classes' number.

    Raises:
        ValueError: An argument, a class folder or an image is wrong.
        FileNotFoundError: There are no data and none can be downloaded.
    """

    _indices: int | Sequence[int] | None

    def __init__(
        self,
        data_root: str = '',
        split: str = 'train',
        *args: Any,
        val_size: int = 1000,
        lazy_init: bool = False,
        **kwargs: Any,
    ) -> None:
        check_choice('split', split, SPLITS)
        check_count('val_size', val_size)
        classes = len(self.METAINFO['classes'])
        if val_size % classes:
            raise ValueError(
                f'val_size={val_size} must be a multiple of {classes}, the '
                f'number of classes, like {10 * classes}'
            )
        self.val_size = val_size
        super().__init__(
            osp.expanduser(data_root),
            # The parent knows no 'val', and warns of training in test_mode.
            'train' if split == 'train' else 'test',
            *args,
            lazy_init=True,
            **kwargs,
        )
        self.split = split
        if not lazy_init:
            self.full_init()

    def load_data_list(self) -> list[dict[str, Any]]:
        """Load the samples of the split, after a download if need be."""
        place = self.data_prefix['root']
        if '://' not in place:  # else it is remote, like s3://bucket
            place = osp.abspath(place)
        folder = osp.join(place, 'test' if self.split == 'test' else 'train')
        official = self._check_integrity()
        missing = not official and not osp.isdir(folder)
        error = None
        if missing and self.download and dist.is_main_process():
            try:
                self._download(place)
            except Exception as caught:  # of urllib, ssl, tarfile, os, ...
                error = caught
        # No rank may raise before this line: the others would wait for it.
        dist.barrier()
        if official or self._check_integrity():
            return self._load_official()
        if osp.isdir(folder):
            return self._load_folder(folder)
        raise FileNotFoundError(self._advice(folder, error)) from error

    def _load_official(self) -> list[dict[str, Any]]:
        parent = copy.copy(self)
        if self.split == 'val':  # unknown to the parent
            parent.split = 'train'
        samples = super(CIFAR10, parent).load_data_list()
        labels = np.array([sample['gt_label'] for sample in samples])
        part = self._part(labels)
        if self.split == 'val':
            part = round_robin(labels, part)
        return [samples[i] for i in part]

    def _load_folder(self, folder: str) -> list[dict[str, Any]]:
        paths, labels = self._list_folder(folder)
        part = round_robin(labels, self._part(labels))
        self.data_list = [
            {'img': paths[i], 'gt_label': int(labels[i])} for i in part
        ]
        # Before any image is read; so full_init must not do it again.
        if self._indices is not None:
            self.data_list = self._get_unserialized_subset(self._indices)
        text = f'reading {len(self.data_list)} images from {folder}'
        print_log(text, logger='current')
        samples = [dict(s, img=_read_image(s['img'])) for s in self.data_list]
        self._indices = None
        return samples

    def _part(self, labels: np.ndarray) -> np.ndarray:
        """Indices of the split among the training or the test samples."""
        if self.split == 'test':
            return np.arange(len(labels))
        names = self.METAINFO['classes']
        counts = np.bincount(labels, minlength=len(names))
        per_class = self.val_size // len(names)
        least = int(counts.argmin())
        if counts[least] <= per_class:
            raise ValueError(
                f'val_size={self.val_size} takes {per_class} images of every '
                f'class and leaves none of the {counts[least]} of class '
                f'{names[least]!r} for training; lower val_size'
            )
        val, train = stratified_split(labels, [per_class])
        return val if self.split == 'val' else train

    def _list_folder(self, folder: str) -> tuple[list[str], np.ndarray]:
        names = self.METAINFO['classes']
        files = {
            entry.name: sorted(
                scandir(entry.path, IMAGE_SUFFIXES, case_sensitive=False)
            )
            for entry in os.scandir(folder)
            if entry.is_dir() and not entry.name.startswith('.')
        }
        missing = [name for name in names if not files.get(name)]
        unexpected = sorted(set(files) - set(names))
        if missing or unexpected:
            raise ValueError(
                f'{folder} must have a folder of images for every class of '
                f'{type(self).__name__} and no other: missing or without '
                f'{"/".join(IMAGE_SUFFIXES)} files: {missing}, unexpected: '
                f'{unexpected}; rename, fill or remove them'
            )
        paths = [osp.join(folder, n, file) for n in names for file in files[n]]
        counts = [len(files[name]) for name in names]
        return paths, np.repeat(np.arange(len(names)), counts)

    def _download(self, place: str) -> None:
        if '://' in place:
            raise RuntimeError('only a local folder can be filled')
        root = Path(place)
        above = next(p for p in (root, *root.parents) if p.is_dir())
        # On the same disk, and hidden until all of it is there.
        with TemporaryDirectory(dir=above, prefix='.download-') as tmp:
            archive = str(root / self.filename)
            if utils.check_integrity(archive, self.tgz_md5):
                utils.extract_archive(archive, tmp)
            else:
                before = socket.getdefaulttimeout()
                socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
                settings = dict(filename=self.filename, md5=self.tgz_md5)
                load = utils.download_and_extract_archive
                try:
                    load(self.url, tmp, **settings)
                finally:
                    socket.setdefaulttimeout(before)
            target = root / self.base_folder
            target.mkdir(parents=True, exist_ok=True)
            for file in Path(tmp, self.base_folder).iterdir():
                file.replace(target / file.name)

    def _advice(self, folder: str, error: Exception | None) -> str:
        place = osp.dirname(folder)
        batches = osp.join(place, self.base_folder)
        state = 'incomplete' if osp.isdir(batches) else 'missing'
        tried = f' The download failed: {error!r}.' if error else ''
        return (
            f'no {type(self).__name__} data for split={self.split!r}: the '
            f'official files in {batches} are {state}, and there is no '
            f'image folder {folder}.{tried} Do one of the two:\n'
            f'  1. download {self.url} and unpack it in {place}, so that '
            f'{osp.join(batches, self.train_list[0][0])} exists;\n'
            f'  2. put 32x32 images ({", ".join(IMAGE_SUFFIXES)}) in {place}'
            f'/{{train,test}}/{self.METAINFO["classes"][0]} and so on.'
        )


@DATASETS.register_module()
class CIFAR100(CIFAR10, _CIFAR100):
    """mmpretrain's CIFAR-100 in the same way; see :class:`CIFAR10`."""


def _read_image(path: str) -> np.ndarray:
    """Read an image as RGB in 0..255, uint8, shape (32, 32, 3)."""
    # Named: the pixels must not depend on mmcv's global setting.
    settings = dict(channel_order='rgb', backend='cv2')
    try:
        img: np.ndarray = mmcv.imfrombytes(Path(path).read_bytes(), **settings)
    except (OSError, cv2.error) as error:
        text = f'cannot read the image {path}; replace it or remove it'
        raise ValueError(text) from error
    if img.shape != (32, 32, 3):
        height, width = img.shape[:2]
        text = f'{path} has {width}x{height} pixels, not 32x32; resize it'
        raise ValueError(text)
    return img
