"""The labels of a batch in one object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(eq=False)
class BatchLabels:
    """Takes the place of a training batch's list of ``DataSample``.

    Args:
        labels (Tensor): Class of each image, int64, shape (N, ).
        scores (Tensor, optional): Probabilities, shape (N, K), where
            batch augmentations have mixed the images; int64 where they are
            one-hot labels. Defaults to None.
    """

    labels: Tensor
    scores: Tensor | None = None

    @property
    def target(self) -> Tensor:
        """What is learnt: the scores if there are any, else the labels.

        Of their shape, (N, K) or (N, ).
        """
        return self.labels if self.scores is None else self.scores

    def to(self, *args: Any, **kwargs: Any) -> BatchLabels:
        """Move to another device.

        Args:
            *args: See :meth:`torch.Tensor.to`.
            **kwargs: The same.

        Returns:
            BatchLabels: There.
        """
        scores = self.scores
        return BatchLabels(
            self.labels.to(*args, **kwargs),
            None if scores is None else scores.to(*args, **kwargs),
        )

    def pin_memory(self) -> BatchLabels:
        """The same in pinned memory; PyTorch's dataloader calls it."""
        scores = self.scores
        return BatchLabels(
            self.labels.pin_memory(),
            None if scores is None else scores.pin_memory(),
        )
