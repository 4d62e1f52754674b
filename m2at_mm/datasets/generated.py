"""Generated images beside the original ones; they stay on the disk."""

import mmap
from collections.abc import Sequence
from typing import Any, BinaryIO, Literal
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
from mmengine.dataset import ConcatDataset
from numpy.lib import format as npy

from m2at_mm.datasets.seeded_pipeline import given_streams
from m2at_mm.datasets.whole_batches import WholeBatches, whole_batch
from m2at_mm.registry import DATASETS


@DATASETS.register_module()
class GeneratedImages(WholeBatches):
    """Images of a generative model, from an ``.npz`` as they are published.

    The file has ``image``, RGB in 0..255, uint8, shape (N, H, W, 3), and
    ``label``, integers of shape (N, ). It is mapped into memory, so it must be
    uncompressed. A sample has ``img`` and ``gt_label``.

    Args:
        ann_file (str): Path of the ``.npz``, relative to ``data_root`` if any.
        **kwargs (Any): See :class:`WholeBatches`. ``classes`` or
            ``metainfo`` must name the classes.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be mapped, or its arrays are wrong.
    """

    def __init__(self, ann_file: str, **kwargs: Any) -> None:
        kwargs['serialize_data'] = False
        super().__init__(ann_file=ann_file, **kwargs)

    def load_data_list(self) -> Sequence[dict[str, Any]]:
        """Map the file and check its arrays."""
        samples = _MappedSamples(self.ann_file)
        names = self.CLASSES or ()
        problem = _problem(samples.images, samples.labels, len(names))
        if problem is not None:
            raise ValueError(f'ann_file={self.ann_file!r} has {problem}')
        return samples

    def get_gt_labels(self) -> np.ndarray:
        """See :meth:`WholeBatches.get_gt_labels`; mapped as well."""
        self.full_init()
        if not isinstance(self.data_list, _MappedSamples):  # chosen one by one
            return super().get_gt_labels()
        part = self.data_list.part
        return self.data_list.labels[part.start : part.stop]


@DATASETS.register_module()
class OriginalAndGenerated(ConcatDataset):
    """The original training images, and behind them generated ones.

    It gives whole batches if both datasets do, for
    :class:`FixedShareBatchSampler`.

    Args:
        original (dict): Config of the dataset of the original images.
        generated (dict): That of the generated ones, like
            :class:`GeneratedImages`. Classes, ``pipeline`` and
            ``whole_batches`` are those of ``original`` if left out.
        lazy_init (bool): Whether to read no data yet. Defaults to False.

    Raises:
        ValueError: Images or classes of the two datasets differ.
    """

    def __init__(
        self,
        original: dict[str, Any],
        generated: dict[str, Any],
        lazy_init: bool = False,
    ) -> None:
        first = DATASETS.build(dict(original, lazy_init=True))
        names = {'pipeline', 'whole_batches'} & original.keys()
        shared = {name: original[name] for name in names}
        if 'classes' not in generated:
            shared['metainfo'] = first.metainfo
        second = DATASETS.build(shared | dict(generated, lazy_init=True))
        parts = [first, second]
        self.whole_batches = all(
            getattr(part, 'whole_batches', False) for part in parts
        )
        super().__init__(parts, lazy_init)

    def full_init(self) -> None:
        """Read both datasets and check that their images fit together."""
        if self._fully_initialized:
            return
        super().full_init()
        first, second = self.datasets
        with given_streams((0,)):  # for the check alone
            one, other = (_shape(part[0]) for part in self.datasets)
        if one != other:
            raise ValueError(
                f'generated.ann_file={second.ann_file!r} gives images of '
                f'shape {other}, but those of {type(first).__name__} are '
                f'{one}: give images of the same size, or resize them in '
                'generated.pipeline'
            )

    def __getitems__(self, indices: list[int]) -> dict[str, Any] | list[Any]:
        """A batch of both, as that of :class:`WholeBatches`."""
        if not self.whole_batches:
            return [self[index] for index in indices]
        for part in self.datasets:
            part.check_pipeline()
        places = [self._get_ori_dataset_idx(index) for index in indices]
        return whole_batch(self.datasets[k].read(i) for k, i in places)


class _MappedSamples(Sequence[Any]):
    """Samples of a mapped ``.npz``, all or those of ``part``."""

    def __init__(self, path: str, part: range | None = None) -> None:
        self.path = path
        self.images, self.labels = (
            _map_array(path, name) for name in ('image', 'label')
        )
        self.part = range(len(self.images)) if part is None else part

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker process maps the file itself: no image is sent to it."""
        return type(self), (self.path, self.part)

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _MappedSamples(self.path, self.part[index])
        place = self.part[index]
        image, label = np.array(self.images[place]), self.labels[place]
        return {'img': image, 'gt_label': int(label)}


def _map_array(path: str, name: str) -> np.ndarray:
    """Map an array of an uncompressed ``.npz`` into memory, read-only."""
    try:
        with ZipFile(path) as archive, open(path, 'rb') as file:
            members = {one.filename: one for one in archive.infolist()}
            member = members.get(f'{name}.npy')
            if member is not None and member.compress_type == ZIP_STORED:
                # The lengths of name and extra field end the 30 bytes of the
                # member's local header.
                file.seek(member.header_offset + 26)
                file.seek(int(np.frombuffer(file.read(4), '<u2').sum()), 1)
                return _map_npy(file, name == 'image')
    except FileNotFoundError as error:
        text = f'ann_file={path!r} is not there: give the path of an .npz'
        raise FileNotFoundError(text) from error
    except (BadZipFile, ValueError, TypeError, OSError) as error:
        raise ValueError(
            f'ann_file={path!r} is no .npz of numpy, or damaged ({error}): '
            'copy or download it once more'
        ) from error
    if member is None:
        raise ValueError(
            f'ann_file={path!r} has {sorted(members)} and no {name!r}: save '
            'the arrays with numpy.savez(path, image=..., label=...)'
        )
    raise ValueError(
        f'ann_file={path!r} is compressed and cannot be mapped into memory: '
        'rewrite it once with python -c "import numpy as np; '
        f"d = np.load({path!r}); np.savez('uncompressed.npz', "
        "image=d['image'], label=d['label'])\""
    )


def _map_npy(file: BinaryIO, at_random: bool) -> np.ndarray:
    first = npy.read_magic(file) == (1, 0)
    read = npy.read_array_header_1_0 if first else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if at_random and hasattr(mmap, 'MADV_RANDOM'):
        # Otherwise much more than an image is read from the disk for each.
        mapped.madvise(mmap.MADV_RANDOM)
    order: Literal['C', 'F'] = 'F' if fortran else 'C'
    return np.ndarray(shape, dtype, mapped, file.tell(), order=order)


def _problem(images: np.ndarray, labels: np.ndarray, count: int) -> str | None:
    pixels = images.dtype == np.uint8 and images.ndim == 4
    if not pixels or images.shape[3] != 3 or len(images) == 0:
        return (
            f'image of {images.dtype}, shape {images.shape}: save RGB in '
            '0..255 as uint8, shape (N, H, W, 3)'
        )
    if labels.dtype.kind not in 'iu' or labels.shape != (len(images),):
        return (
            f'label of {labels.dtype}, shape {labels.shape}, for '
            f'{len(images)} images: save the index of the class of each, '
            f'integers of shape ({len(images)}, )'
        )
    low, high = labels.min(), labels.max()
    if low < 0 or high >= count:
        return (
            f'labels from {low} to {high}, but classes has {count} '
            'names: mend the labels, or name the classes that they count'
        )
    return None


def _shape(sample: dict[str, Any]) -> tuple[int, ...]:
    return tuple(sample['inputs' if 'inputs' in sample else 'img'].shape)
