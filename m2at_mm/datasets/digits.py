"""Real handwritten digits that need no download."""

from typing import Any

import mmcv
import numpy as np

from m2at_mm.checks import check_choice
from m2at_mm.datasets.splits import SPLITS, round_robin, stratified_split
from m2at_mm.datasets.whole_batches import WholeBatches
from m2at_mm.registry import DATASETS


@DATASETS.register_module()
class Digits(WholeBatches):
    """The 1,797 handwritten digits inside scikit-learn, in CIFAR's shape.

    The 8x8 images (https://doi.org/10.24432/C50P49) come as 32x32 RGB. Of the
    fixed split, 'train' has 1,297 images, 'val' 200 and 'test' 300, the latter
    two class-balanced. Samples are in the order and form of :class:`CIFAR10`,
    arguments as of :class:`WholeBatches`.
    """

    METAINFO = {'classes': tuple('0123456789')}

    def __init__(self, split: str = 'train', *args: Any, **kw: Any) -> None:
        check_choice('split', split, SPLITS)
        self.split = split
        super().__init__('', *args, **kw)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Load the samples of the split."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError(
                'm2at_mm.Digits needs scikit-learn; install it with '
                "pip install 'm2at_mm[demo]'"
            ) from error
        images, labels = load_digits(return_X_y=True)
        # Of 174 to 183 per class: 300 test and 200 validation images in all.
        parts = stratified_split(labels, [30, 20])
        part = dict(zip(('test', 'val', 'train'), parts))[self.split]
        return [
            {'img': _to_rgb(images[i]), 'gt_label': int(labels[i])}
            for i in round_robin(labels, part)
        ]

    def extra_repr(self) -> list[str]:
        """Tell the split in the dataset's repr."""
        return [f'Split: \t{self.split}']


def _to_rgb(values: np.ndarray) -> np.ndarray:
    """Scale 64 values in 0..16 to a 32x32 RGB image in 0..255."""
    small = (values * (255 / 16)).astype(np.float32).reshape(8, 8)
    how = dict(interpolation='bicubic', backend='cv2')
    gray = mmcv.imresize(small, (32, 32), **how)
    # Bicubic interpolation overshoots at edges.
    gray = gray.round().clip(0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=-1)
