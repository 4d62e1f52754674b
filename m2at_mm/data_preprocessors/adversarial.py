"""The preprocessor that keeps images in [0, 1]."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Optional

import torch
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.structures import DataSample
from torch import Tensor

from m2at_mm.registry import MODELS


@MODELS.register_module()
class AdversarialDataPreprocessor(ClsDataPreprocessor):
    """Gives images in [0, 1]; normalising them is a separate step.

    It takes the settings of :class:`mmpretrain.models.ClsDataPreprocessor`
    with their meaning, so that a stock config's ``data_preprocessor`` fits as
    it is: ``mean`` and ``std`` on the 0-255 scale in RGB order, ``to_rgb``,
    ``num_classes`` and ``batch_augments``, which mix the images in pixel
    space. The only difference: :meth:`forward` divides by 255 instead of
    normalising, and the attacked function begins with :meth:`normalize`.
    Batches come in :attr:`memory_format`.

    Args:
        **kwargs: See :class:`mmpretrain.models.ClsDataPreprocessor`.

    Raises:
        ValueError: ``pad_size_divisor`` is not 1, or only one of ``mean`` and
            ``std`` is given.
    """

    #: Memory layout of the batches; convolutions are faster in this one.
    memory_format: torch.memory_format = torch.channels_last

    def __init__(self, **kwargs: Any) -> None:
        if kwargs.get('pad_size_divisor', 1) != 1:
            raise ValueError(
                f'pad_size_divisor={kwargs["pad_size_divisor"]!r} is not '
                'supported: a padded border would be attacked like the '
                'image. Resize or pad in the pipeline instead'
            )
        if (kwargs.get('mean') is None) != (kwargs.get('std') is None):
            raise ValueError(
                f'mean={kwargs.get("mean")!r} and std={kwargs.get("std")!r} '
                'must be given together or not at all'
            )
        super().__init__(**kwargs)
        # The parent's forward must not normalise.
        self._enable_normalize = False

    def forward(
        self, data: dict[str, Any], training: bool = False
    ) -> dict[str, Any]:
        """Move a batch to the device and scale it to [0, 1].

        Args:
            data (dict): ``inputs``, pixels in 0-255 of shape (N, C, H, W) or
                a list of (C, H, W), and ``data_samples``.
            training (bool): Whether to apply the batch augmentations.

        Returns:
            dict: ``inputs``, RGB in [0, 1], shape (N, C, H, W), and
            ``data_samples``.

        Raises:
            ValueError: Pixels are not in 0-255, or a label is not one of the
                ``num_classes``.
        """
        inputs = data['inputs']
        _check_pixels([inputs] if isinstance(inputs, Tensor) else inputs)
        self._check_labels(data.get('data_samples') or [])
        batch: dict[str, Any] = super().forward(data, training)
        # Not in place: float pixels can still be the caller's own tensor.
        # Mixing two white pixels can round to just above white.
        batch['inputs'] = (
            batch['inputs']
            .div(255)
            .clamp_(0, 1)
            .contiguous(memory_format=self.memory_format)
        )
        return batch

    def normalize(self, images: Tensor) -> Tensor:
        """What the network sees: (255 * images - mean) / std.

        Args:
            images (Tensor): RGB in [0, 1], shape (N, C, H, W).

        Returns:
            Tensor: Same shape; the images themselves without mean and std.
        """
        mean: Optional[Tensor] = getattr(self, 'mean', None)
        if mean is None:
            return images
        normalised: Tensor = (images - mean / 255) / (self.std / 255)
        return normalised

    def _check_labels(self, samples: Iterable[Any]) -> None:
        if self.num_classes is None:
            return
        for sample in samples:
            if not isinstance(sample, DataSample) or 'gt_label' not in sample:
                continue
            label = sample.gt_label
            if label.device.type != 'cpu':  # checked before it was moved
                continue
            wrong = [
                n for n in label.tolist() if not 0 <= n < self.num_classes
            ]
            if wrong:
                raise ValueError(
                    f'label {wrong[0]} of image '
                    f'{sample.get("img_path", sample.get("sample_idx", "?"))} '
                    f'is outside the classes 0 to {self.num_classes - 1}: '
                    'set num_classes in head and data_preprocessor to the '
                    "dataset's number of classes, or mend the labels"
                )


def _check_pixels(inputs: Iterable[Tensor]) -> None:
    for pixels in inputs:
        if pixels.dtype == torch.uint8 or pixels.numel() == 0:
            continue
        low, high = pixels.min().item(), pixels.max().item()
        if low < 0 or high > 255:
            raise ValueError(
                f'pixels must be in 0-255, but are in [{low:g}, {high:g}]: '
                'remove the normalisation from the pipeline and set mean and '
                'std in data_preprocessor'
            )
