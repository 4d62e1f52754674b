"""The labels of a batch: in one object, or in a list of samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from mmpretrain.structures import DataSample
from torch import Tensor

__all__ = ['BatchLabels', 'stack_targets']


@dataclass(eq=False)
class BatchLabels:
    """Takes the place of a training batch's list of ``DataSample``.

    ``labels`` are int64 of shape (N, ), ``scores`` probabilities of shape
    (N, K) of mixed images, or one-hot labels, int64.
    """

    labels: Tensor
    scores: Tensor | None = None

    @property
    def target(self) -> Tensor:
        """The scores, (N, K), if there are any, else the labels, (N, )."""
        return self.labels if self.scores is None else self.scores

    def to(self, *args: Any, **kwargs: Any) -> BatchLabels:
        """Move to another device, see :meth:`torch.Tensor.to`."""
        return self._each(lambda one: one.to(*args, **kwargs))

    def pin_memory(self) -> BatchLabels:
        """The same in pinned memory; PyTorch's dataloader calls it."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> BatchLabels:
        scores = None if self.scores is None else change(self.scores)
        return BatchLabels(change(self.labels), scores)


def stack_targets(
    samples: list[DataSample] | BatchLabels | None, soft: bool
) -> Tensor | None:
    """The targets of a batch, None if it has none.

    With ``soft``, gt_score (N, K) goes before gt_label (N, ).
    """
    if isinstance(samples, BatchLabels):
        return samples.target
    fields = ('gt_score', 'gt_label') if soft else ('gt_label', 'gt_score')
    for field in fields:
        if samples and all(field in sample for sample in samples):
            values = [sample.get(field) for sample in samples]
            join = torch.cat if field == 'gt_label' else torch.stack
            return join(values)
    return None
