"""Images that are drawn, of any shape and number."""

from typing import Any

import numpy as np
import torch
from mmpretrain.datasets import BaseDataset
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.registry import DATASETS, MODELS
from torch import Tensor, nn

CLASSES = ('dark', 'medium', 'bright')


@DATASETS.register_module()
class DrawnImages(BaseDataset):
    """Noise around the brightness of its class, the classes in turn.

    Args:
        number (int): Number of images.
        shape (tuple): Height, width and channels.
        one_hot (bool): Give int64 scores, as mmpretrain's one-hot labels are,
            in place of labels.
        **kwargs: See mmpretrain's ``BaseDataset``.
    """

    METAINFO = dict(classes=CLASSES)

    def __init__(
        self, number: int, shape: Any, one_hot: bool = False, **kwargs: Any
    ) -> None:
        self.number, self.shape, self.one_hot = number, shape, one_hot
        super().__init__(ann_file='', **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Draw all images, from a seed of their own."""
        rng = np.random.default_rng(0)
        scores = torch.eye(len(CLASSES), dtype=torch.int64)
        samples = []
        for index in range(self.number):
            label = index % len(CLASSES)
            noise = rng.integers(0, 60, self.shape)
            image = (noise + 90 * label).astype(np.uint8)
            samples.append(dict(img=image, gt_label=label, sample_idx=index))
            if self.one_hot:
                samples[-1]['gt_score'] = scores[label]
        return samples


@MODELS.register_module()
class SqueezingBackbone(BaseBackbone):
    """As LeNet5, squeezes its features: of one image they have no batch.

    Args:
        in_channels (int): Channels of the images.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 8, 3)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Features of shape (N, 8), or (8, ) of one image."""
        return (self.conv(images).relu().mean((2, 3)).squeeze(),)
