"""The preprocessor that keeps images in [0, 1], and crops and flips them."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from m2at_mm.attacks.losses import as_target, check_classes
from m2at_mm.checks import check_count, check_number
from m2at_mm.methods.base import one_hot
from m2at_mm.registry import MODELS, type_name
from m2at_mm.structures import BatchLabels

Batch = dict[str, Any]
__all__ = ['AdversarialDataPreprocessor', 'RandomCropAndFlip', 'crop_and_flip']


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


@MODELS.register_module()
class AdversarialDataPreprocessor(ClsDataPreprocessor):
    """Gives images in [0, 1]; normalising them is a separate step.

    The attacked function begins with :meth:`normalize`. Labels come as a list
    of ``DataSample`` or, in training, as
    :class:`m2at_mm.structures.BatchLabels`.

    Args:
        augment (dict, optional): Random crops and flips of training batches,
            on the device and before all else: the arguments of
            :class:`RandomCropAndFlip`.
        **kwargs: See :class:`mmpretrain.models.ClsDataPreprocessor`, but for
            ``pad_size_divisor``.
    """

    #: Memory layout of the batches; convolutions are faster in this one.
    memory_format: torch.memory_format = torch.channels_last

    def __init__(
        self, augment: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if kwargs.get('pad_size_divisor', 1) != 1:
            raise ValueError(
                f'pad_size_divisor={kwargs["pad_size_divisor"]!r} is not '
                'supported: a padded border would be attacked like the '
                'image. Resize or pad in the pipeline instead'
            )
        mean, std = kwargs.get('mean'), kwargs.get('std')
        if (mean is None) != (std is None):
            text = f'{mean=} and {std=} must be given together or not at all'
            raise ValueError(text)
        super().__init__(**kwargs)
        # The parent's forward must not normalise.
        self._enable_normalize = False
        # By ``training``: whether float pixels above 1 were seen.
        self._seen_above_1 = {True: False, False: False}
        # Batches in pinned memory are copied while the GPU computes.
        self._non_blocking = True
        self.augment = (
            augment if augment is None else RandomCropAndFlip(**augment)
        )

    def forward(self, data: Batch, training: bool = False) -> Batch:
        """Move a batch to the device and scale it to [0, 1].

        ``inputs`` are pixels in 0-255 of shape (N, C, H, W), or a list of
        images. In training they are cropped, flipped and mixed.
        """
        inputs, labels = _stack(data['inputs']), data.get('data_samples')
        self._check_pixels(inputs, training)
        self._check_labels(labels or [])
        if training and self.augment is not None:
            inputs = self.augment(self.cast_data(inputs))
        batch: Batch
        if isinstance(labels, BatchLabels):
            batch = super().forward(dict(inputs=inputs), training)
            labels = labels.to(self.device, non_blocking=self._non_blocking)
            batch = self._mix(batch['inputs'], labels, training)
        else:
            batch = super().forward(dict(data, inputs=inputs), training)
        # Not in place: float pixels can still be the caller's own tensor.
        # Mixing two white pixels can round to just above white.
        images = batch['inputs'].div(255).clamp_(0, 1)
        batch['inputs'] = images.contiguous(memory_format=self.memory_format)
        return batch

    def normalize(self, images: Tensor) -> Tensor:
        """What the network sees: (255 * images - mean) / std, if given."""
        mean: Tensor | None = getattr(self, 'mean', None)
        if mean is None:
            return 255 * images
        normalised: Tensor = (images - mean / 255) / (self.std / 255)
        return normalised

    def _mix(self, images: Tensor, labels: Any, training: bool) -> Batch:
        if self.to_onehot:
            scores = one_hot(labels.target, self.num_classes)
            if training and self.batch_augments is not None:
                images, scores = self.batch_augments(images, scores)
            else:
                scores = scores.long()  # one-hot, as the parent's are
            labels = BatchLabels(labels.labels, scores)
        return dict(inputs=images, data_samples=labels)

    def _check_pixels(self, pixels: Tensor, training: bool) -> None:
        if pixels.dtype == torch.uint8 or pixels.numel() == 0:
            return
        low, high = pixels.min().item(), pixels.max().item()
        found = f'pixels must be in 0-255, but are in [{low:g}, {high:g}]'
        if not (low >= 0 and high <= 255):  # nor NaN
            raise ValueError(
                f'{found}: remove the normalisation from the pipeline and set '
                'mean and std in data_preprocessor'
            )
        self._seen_above_1[training] |= high > 1
        # Whole numbers are a black image, or one of black and almost black.
        if not self._seen_above_1[training] and bool((pixels % 1).any()):
            raise ValueError(
                f'{found}, as torchvision/ToTensor scales them: remove it '
                'from the pipeline, and give mean and std in '
                'data_preprocessor on the scale of 0-255'
            )

    def _check_labels(self, samples: Iterable[Any] | BatchLabels) -> None:
        if isinstance(samples, BatchLabels):
            labels = as_target(samples.labels, len(samples.labels), False)
            # A label that was moved was checked before.
            if labels.device.type == 'cpu':
                for index, label in enumerate(labels.tolist()):
                    self._check_label(label, f'{index} of the batch')
            return
        for sample in samples:
            if not isinstance(sample, DataSample):
                continue
            image = sample.get('img_path', sample.get('sample_idx', '?'))
            if 'gt_score' in sample:
                self._check_scores(sample.gt_score, image)
            if 'gt_label' in sample:
                label = sample.gt_label
                if label.numel() != 1 or label.is_floating_point():
                    raise ValueError(
                        f'gt_label of image {image} must be one class, a '
                        f'whole number, but is {label.dtype} of shape '
                        f'{tuple(label.shape)}: give an image one label, and '
                        'probabilities as gt_score'
                    )
                if label.device.type == 'cpu':
                    self._check_label(label.item(), image)

    def _check_label(self, label: int, image: Any) -> None:
        classes = self.num_classes
        if classes is not None and not 0 <= label < classes:
            raise ValueError(
                f'label {label} of image {image} is outside the classes 0 to '
                f'{classes - 1}: set num_classes in head and '
                "data_preprocessor to the dataset's number of classes, or "
                'mend the labels'
            )

    def _check_scores(self, scores: Tensor, image: Any) -> None:
        try:
            target = as_target(scores[None], 1, scores.device.type == 'cpu')
            if self.num_classes is not None:
                check_classes(target, self.num_classes, check_values=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f'gt_score of image {image} must be probabilities, one of '
                f'each class: {error}'
            ) from error


def _stack(inputs: Tensor | Sequence[Tensor]) -> Tensor:
    if isinstance(inputs, Tensor):
        return inputs
    sizes = sorted({tuple(image.shape) for image in inputs})
    if len(sizes) > 1:
        raise ValueError(
            f'a batch has images of the sizes {sizes}, and a padded border '
            'would be attacked like the image: resize or crop them to one '
            'size in the pipeline'
        )
    return torch.stack(list(inputs))


def take_over_preprocessing(
    classifier: dict[str, Any], outer: dict[str, Any] | nn.Module | None
) -> tuple[dict[str, Any], dict[str, Any] | nn.Module]:
    """Move the preprocessing settings from a classifier to its wrapper.

    As in a stock config, those inside go before the top-level ones, but for
    ``augment``, and ``train_cfg`` holds batch augmentations.

    Raises:
        ValueError: The preprocessor is for another task.
    """
    classifier = copy.deepcopy(classifier)
    inner = classifier.pop('data_preprocessor', None)
    augments = classifier.pop('train_cfg', None)
    if isinstance(outer, nn.Module):
        return classifier, outer
    ours = AdversarialDataPreprocessor.__name__
    settings = dict(copy.deepcopy(outer or {}))
    if inner and type_name(settings.get('type')) != ours:
        kept = {key: settings[key] for key in settings if key == 'augment'}
        settings = {**kept, **inner}
    name = type_name(settings.get('type', 'ClsDataPreprocessor'))
    if name not in ('ClsDataPreprocessor', ours):
        raise ValueError(
            f'data_preprocessor type={settings["type"]!r} cannot be taken '
            'over: only ClsDataPreprocessor of single-label image '
            f"classification can. Give type='m2at_mm.{ours}' and its settings"
        )
    if name != ours:
        settings['type'] = f'm2at_mm.{ours}'
    if augments:
        settings.setdefault('batch_augments', augments)
    return classifier, settings
