"""Datasets that give a whole batch at once instead of its samples."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from mmengine.dataset import default_collate
from mmpretrain.datasets import BaseDataset

from m2at_mm.registry import FUNCTIONS
from m2at_mm.structures import BatchLabels


class WholeBatches(BaseDataset):
    """Mixin of datasets whose images are in memory and of one size.

    With ``whole_batches`` no Python object per sample is transformed, collated
    and sent from a worker. Random crops and flips are then those of
    :class:`m2at_mm.AdversarialDataPreprocessor`. It is fastest with
    ``serialize_data=False``. A single sample, and with it a wrapper like
    ``ConcatDataset``, gives what it always gave.

    Args:
        whole_batches (bool): Whether to give batches as
            ``dict(inputs=Tensor, data_samples=BatchLabels)``, for training
            with ``collate_fn=dict(type='m2at_mm.whole_batch_collate')``.
            Defaults to False. Others: see mmpretrain's ``BaseDataset``.
    """

    def __init__(
        self, *args: Any, whole_batches: bool = False, **kwargs: Any
    ) -> None:
        self.whole_batches = whole_batches
        super().__init__(*args, **kwargs)
        if whole_batches:
            self.check_pipeline()

    def __getitems__(self, indices: list[int]) -> dict[str, Any] | list[Any]:
        """A batch, inputs uint8 of (N, C, H, W), or else a list of samples."""
        if not self.whole_batches:
            return [self[index] for index in indices]
        self.check_pipeline()
        self.full_init()
        return whole_batch(self.read(index) for index in indices)

    def read(self, index: int) -> dict[str, Any]:
        """A sample before the pipeline, not to be changed."""
        # get_data_info would copy a sample that is not serialized.
        kept = None if self.serialize_data else self.data_list[index]
        sample: dict[str, Any] = kept or self.get_data_info(index)
        return sample

    def get_gt_labels(self) -> np.ndarray:
        """The class of each image, int64 of shape (len(self), )."""
        if self.serialize_data:
            return np.asarray(super().get_gt_labels())
        # The parent copies each image on the way.
        self.full_init()
        return np.array([sample['gt_label'] for sample in self.data_list])

    def _copy_without_annotation(self, memo: Any = None) -> Any:
        # The parent's memo outlives the call: a later copy could get what an
        # earlier one, since freed, had at the same address.
        return super()._copy_without_annotation({} if memo is None else memo)

    def check_pipeline(self) -> None:
        """Refuse transforms, which whole batches would pass by."""
        steps = getattr(self.pipeline, 'transforms', [self.pipeline])
        names = [type(step).__name__ for step in steps]
        if names not in ([], ['PackInputs']):
            raise ValueError(
                f'whole_batches=True gives images as they are, but the '
                f"pipeline is {names}: leave dict(type='PackInputs') alone in "
                'it and crop and flip by data_preprocessor.augment, or set '
                'whole_batches=False and data_preprocessor.augment=None'
            )


def whole_batch(samples: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Join samples to inputs, uint8 of (N, C, H, W), and their labels."""
    images, labels = zip(*((one['img'], one['gt_label']) for one in samples))
    return dict(
        inputs=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
        data_samples=BatchLabels(torch.tensor(labels)),
    )


@FUNCTIONS.register_module()  # type: ignore[untyped-decorator]
def whole_batch_collate(batch: dict[str, Any] | list[Any]) -> Any:
    """Pass on a whole batch; join samples as MMEngine's default does."""
    return batch if isinstance(batch, dict) else default_collate(batch)
