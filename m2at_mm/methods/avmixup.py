"""AVmixup: adversarial vertex mixup."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from m2at_mm.checks import check_number
from m2at_mm.methods.base import BoundAttack, Method, Model, TrainingBatch
from m2at_mm.methods.labels import one_hot, smooth_labels
from m2at_mm.registry import TASK_UTILS


@TASK_UTILS.register_module()
@dataclass
class AVmixup(Method):
    """CE on points between an image and its adversarial vertex.

    Lee et al., "Adversarial Vertex Mixup", arXiv 2003.02484. With
    a ~ Beta(1, 1) for each image and ls(y, q) of
    :func:`m2at_mm.methods.smooth_labels`::

        v  = clip(x + gamma*d)
        x~ = a*x + (1-a)*v        t~ = a*ls(y, clean) + (1-a)*ls(y, vertex)

    Args:
        gamma (float): Distance of the vertex in perturbations, at least 1.
        clean_label (float): Confidence of the image's label, in [0, 1].
        vertex_label (float): Confidence of the vertex's label, in [0, 1]; the
            authors' choice for CIFAR-10 by default.
    """

    gamma: float = 2.0
    clean_label: float = 1.0
    vertex_label: float = 0.1

    def __post_init__(self) -> None:
        check_number('gamma', self.gamma, 1)
        check_number('clean_label', self.clean_label, 0, 1)
        check_number('vertex_label', self.vertex_label, 0, 1)

    @property
    def changes_labels(self) -> bool:
        """See :attr:`Method.changes_labels`."""
        return True

    def draw(self, images: Tensor) -> Tensor:
        """The ratio a of each image, uniform in [0, 1], shape (N, )."""
        return torch.rand(len(images), device=images.device)

    def training_batch(
        self, model: Model, attack: BoundAttack, images: Tensor, target: Tensor
    ) -> TrainingBatch:
        """See :meth:`Method.training_batch`."""
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
        return TrainingBatch(mixed, soft, dict(kept_share=(1 - weight).mean()))
