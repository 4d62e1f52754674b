"""What mmpretrain's heads have in common, where they differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmpretrain.models.heads import (
    ClsHead,
    ConformerHead,
    EfficientFormerClsHead,
    LeViTClsHead,
    MultiLabelClsHead,
    MultiTaskHead,
    VigClsHead,
)
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from m2at_mm.attacks.context import attack_mode
from m2at_mm.attacks.logits import logits_of


def why_unsupported(head: type) -> str | None:
    """Why a kind of head cannot be attacked, None if it can.

    Args:
        head (type): Class of a classifier's head.

    Returns:
        str, optional: The reason, as the end of a sentence on the head.
    """
    if issubclass(head, MultiLabelClsHead):
        return (
            'gives an image several labels, but the attacks and their '
            'accuracy are those of one label per image: give LinearClsHead '
            'where every image has one'
        )
    if issubclass(head, MultiTaskHead):
        return 'has several tasks, but an attack needs one set of classes'
    return None


def count_classes(classifier: nn.Module) -> int | None:
    """The number of a classifier's logits, None if it does not tell.

    Args:
        classifier (nn.Module): Of mmpretrain.
    """
    head = getattr(classifier, 'head', None)
    if isinstance(head, VigClsHead):
        return int(head.fc2.out_features)
    found: int | None = getattr(head, 'num_classes', None)
    if head is None:  # of timm or Hugging Face
        network = getattr(classifier, 'model', None)
        config = getattr(network, 'config', None)
        found = getattr(config, 'num_labels', None) or getattr(
            network, 'num_classes', None
        )
    return found


def classifier_logits(classifier: Any, inputs: Tensor) -> Tensor:
    """The logits that a classifier predicts from, one row per image.

    Args:
        classifier: Of mmpretrain.
        inputs (Tensor): Normalised images, shape (N, C, H, W).

    Returns:
        Tensor: Shape (N, K). Conformer's two heads are added and LeViT's
        averaged, as their ``predict`` does, also in train mode.
    """
    with _trainable(classifier):
        scores = logits_of(lambda x: classifier(x, mode='tensor'), inputs)
    logits: Tensor = joined_logits(getattr(classifier, 'head', None), scores)
    return logits


def squeezes(classifier: nn.Module, image: Tensor) -> bool:
    """Whether a classifier loses the dimension of a batch of one image.

    Args:
        classifier (nn.Module): Of mmpretrain. Its modes and running statistics
            stay as they are.
        image (Tensor): Normalised, shape (1, C, H, W).
    """
    with attack_mode(classifier), torch.no_grad():
        scores: Any = classifier(image, mode='tensor')
    return isinstance(scores, Tensor) and scores.ndim == 1


def joined_logits(head: nn.Module | None, scores: Any) -> Any:
    """One row of logits per image from what a head gives.

    Args:
        head (nn.Module, optional): Head of a classifier.
        scores: Its output. Conformer's two are added, others stay.
    """
    return sum(scores) if isinstance(head, ConformerHead) else scores


def classifier_losses(
    classifier: Any, inputs: Tensor, samples: list[DataSample]
) -> dict[str, Tensor]:
    """The classifier's own losses.

    The distilled LeViT and EfficientFormer, which mmpretrain only predicts
    with, learn from the average of their two heads' logits, as DeiT does
    there.

    Args:
        classifier: Of mmpretrain.
        inputs (Tensor): Normalised images, shape (N, C, H, W).
        samples (list[DataSample]): With ``gt_label`` or ``gt_score``.
    """
    head = getattr(classifier, 'head', None)
    losses: dict[str, Tensor]
    with _trainable(classifier):
        if isinstance(head, EfficientFormerClsHead) and head.dist:
            # Its own loss refuses to.
            features = classifier.extract_feat(inputs)
            losses = ClsHead.loss(head, features, samples)
        else:
            losses = classifier.loss(inputs, samples)
    return losses


@contextmanager
def _trainable(classifier: nn.Module) -> Iterator[None]:
    """Let a distilled LeViT head give one output in train mode, too."""
    head = getattr(classifier, 'head', None)
    if not (isinstance(head, LeViTClsHead) and head.training):
        yield
        return
    head.training = False  # of the head itself; its batch norms still train
    try:
        yield
    finally:
        head.training = True
