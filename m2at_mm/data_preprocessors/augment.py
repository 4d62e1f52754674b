"""Random crops and flips of a whole batch, on its device."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from m2at_mm.checks import check_count, check_number


def crop_and_flip(
    images: Tensor, tops: Tensor, lefts: Tensor, flips: Tensor, padding: int
) -> Tensor:
    """Crop each image out of itself in a black border, and flip some.

    Images are of any dtype and range, shape (N, C, H, W). ``tops`` and
    ``lefts``, int64 (N, ), are the first row and column of a crop in the
    padded image; ``flips``, bool (N, ), says which crops are mirrored.
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


@dataclass
class RandomCropAndFlip:
    """Mmpretrain's ``RandomCrop`` and ``RandomFlip``, for a batch at once.

    Args:
        crop_padding (int): Width of the black border, in pixels, that the
            crop, as large as the image, is taken from.
        flip_prob (float): Probability of a horizontal flip.
    """

    crop_padding: int = 0
    flip_prob: float = 0.0

    def __post_init__(self) -> None:
        check_count('crop_padding', self.crop_padding, 0)
        check_number('flip_prob', self.flip_prob, 0, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Draw and transform, see :func:`crop_and_flip`."""
        number, device = len(images), images.device
        tops, lefts = torch.randint(
            2 * self.crop_padding + 1, (2, number), device=device
        )
        flips = torch.rand(number, device=device) < self.flip_prob
        return crop_and_flip(images, tops, lefts, flips, self.crop_padding)
