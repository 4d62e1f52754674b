"""AVmixup: adversarial vertex mixup."""

from __future__ import annotations

import torch
from torch import Tensor

from m2at_mm.methods.base import (
    Attack,
    Method,
    TrainingModel,
    check_number,
    supervised_step,
)
from m2at_mm.methods.masking import one_hot, smooth_labels
from m2at_mm.registry import TASK_UTILS


@TASK_UTILS.register_module()
class AVmixup(Method):
    """CE on points between an image and its adversarial vertex.

    Lee et al., "Adversarial Vertex Mixup", arXiv 2003.02484. With
    a ~ Beta(1, 1) for each image and ls(y, q) of
    :func:`m2at_mm.methods.smooth_labels`::

        v  = clip(x + gamma*d)
        x~ = a*x + (1-a)*v        t~ = a*ls(y, clean) + (1-a)*ls(y, vertex)

    Args:
        gamma (float): How far the vertex is, in perturbations, at least 1.
            Defaults to 2.0.
        clean_label (float): Confidence of the label of the image, in [0, 1].
            Defaults to 1.0.
        vertex_label (float): Confidence of the label of the vertex, in
            [0, 1]. Defaults to 0.1, the authors' for CIFAR-10.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        clean_label: float = 1.0,
        vertex_label: float = 0.1,
    ) -> None:
        self.gamma = check_number('gamma', gamma, low=1)
        self.clean_label = check_number('clean_label', clean_label, high=1)
        self.vertex_label = check_number('vertex_label', vertex_label, high=1)

    @property
    def changes_labels(self) -> bool:
        """See :attr:`Method.changes_labels`; it mixes them."""
        return True

    def draw(self, images: Tensor) -> Tensor:
        """Draw the ratio a of each image.

        Args:
            images (Tensor): In [0, 1], shape (N, C, H, W); only number and
                device count.

        Returns:
            Tensor: Uniform in [0, 1], shape (N, ).
        """
        return torch.rand(len(images), device=images.device)

    def loss(
        self,
        model: TrainingModel,
        attack: Attack,
        images: Tensor,
        target: Tensor,
    ) -> dict[str, Tensor]:
        """See :meth:`Method.loss`."""
        adversarial = attack(model, images, target)
        vertex = (images + self.gamma * (adversarial - images)).clamp(0, 1)
        weight = self.draw(images)
        share = weight.view(-1, 1, 1, 1)
        mixed = share * images + (1 - share) * vertex
        labels = one_hot(target, model.num_classes)
        share = weight.unsqueeze(1)
        soft = share * smooth_labels(labels, self.clean_label) + (
            1 - share
        ) * smooth_labels(labels, self.vertex_label)
        return supervised_step(model, mixed, soft, target, (1 - weight).mean())
