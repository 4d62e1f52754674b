"""Random crops and flips of a whole batch, on its device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from m2at_mm.checks import check_count, check_number


def crop_and_flip(
    images: Tensor, tops: Tensor, lefts: Tensor, flips: Tensor, padding: int
) -> Tensor:
    """Crop each image out of itself in a black border, and flip some.

    Args:
        images (Tensor): Of any dtype and range, shape (N, C, H, W).
        tops (Tensor): First row of each crop in the padded image, int64 in
            0 to 2 * padding, shape (N, ).
        lefts (Tensor): First column, of the same range and shape.
        flips (Tensor): Whether to mirror the crop horizontally, bool of
            shape (N, ).
        padding (int): Width of the border in pixels.

    Returns:
        Tensor: Same shape and dtype, in the channels-last layout.
    """
    number, _, height, width = images.shape
    columns = torch.arange(width, device=images.device)
    columns = torch.where(flips[:, None], width - 1 - columns, columns)
    columns = lefts[:, None] + columns
    rows = tops[:, None] + torch.arange(height, device=images.device)
    which = torch.arange(number, device=images.device)
    padded = F.pad(images, (padding,) * 4)
    # One gather of (N, H, W, C).
    crops = padded.permute(0, 2, 3, 1)[
        which[:, None, None], rows[:, :, None], columns[:, None, :]
    ]
    return crops.permute(0, 3, 1, 2)


class RandomCropAndFlip:
    """Mmpretrain's ``RandomCrop`` and ``RandomFlip``, for a batch at once.

    Every offset of the crop has the same probability. The draws are those of
    PyTorch's stream on the images' device and wait for nothing.

    Args:
        crop_padding (int): Width in pixels of the black border that the crop,
            as large as the image, is taken from. Defaults to 0.
        flip_prob (float): Probability of a horizontal flip. Defaults to 0.0.
    """

    def __init__(self, crop_padding: int = 0, flip_prob: float = 0.0) -> None:
        check_count('crop_padding', crop_padding, 0)
        check_number('flip_prob', flip_prob, 0, 1)
        self.crop_padding = crop_padding
        self.flip_prob = flip_prob

    def __call__(self, images: Tensor) -> Tensor:
        """Draw and transform, see :func:`crop_and_flip`."""
        number, device = len(images), images.device
        tops, lefts = torch.randint(
            2 * self.crop_padding + 1, (2, number), device=device
        )
        flips = torch.rand(number, device=device) < self.flip_prob
        return crop_and_flip(images, tops, lefts, flips, self.crop_padding)
