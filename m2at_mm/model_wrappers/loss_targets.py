"""Which targets the loss modules of a classifier take."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from mmpretrain.models import TimmClassifier
from torch import Tensor, nn


class AcceptedTargets(NamedTuple):
    """What every loss module of a classifier takes.

    Attributes:
        labels (bool): Labels, int64 of shape (N, ).
        scores (bool): Probabilities of shape (N, K), and their values count.
    """

    labels: bool
    scores: bool


def loss_modules(classifier: nn.Module) -> list[nn.Module]:
    """The modules that a classifier's losses are computed by.

    Args:
        classifier (nn.Module): Of mmpretrain.
    """
    return [
        module
        for name, module in classifier.named_modules()
        if name.rsplit('.', 1)[-1] == 'loss_module'
    ]


def accepted_targets(
    classifier: nn.Module, num_classes: int | None
) -> AcceptedTargets:
    """Try copies of a classifier's loss modules on a few targets.

    Args:
        classifier (nn.Module): Of mmpretrain.
        num_classes (int, optional): K. Without it nothing is tried, and both
            kinds of targets count as accepted.

    Raises:
        ValueError: A loss takes neither labels nor probabilities.
    """
    if num_classes is None:
        return AcceptedTargets(True, True)
    # As mmpretrain's classifiers call it.
    averaged = not isinstance(classifier, TimmClassifier)
    found = [
        _try(module, num_classes, averaged)
        for module in loss_modules(classifier)
    ]
    return AcceptedTargets(
        all(one.labels for one in found), all(one.scores for one in found)
    )


def _try(
    module: nn.Module, num_classes: int, averaged: bool
) -> AcceptedTargets:
    # With as many images as classes, some losses broadcast what is wrong.
    num = num_classes + 1
    labels = torch.arange(num) % num_classes
    logits = torch.linspace(-1, 1, num * num_classes).view(num, num_classes)
    sharp = torch.full_like(logits, 0.1 / num_classes)
    sharp[torch.arange(num), labels] += 0.9
    flat = (sharp + 1 / num_classes) / 2
    kwargs = dict(avg_factor=num) if averaged else {}
    hard, first, second = (
        _loss(module, logits, target, kwargs)
        for target in (labels, sharp, flat)
    )
    if isinstance(hard, Exception) and isinstance(first, Exception):
        raise ValueError(
            f'loss={type(module).__name__!r} takes neither labels of shape '
            f'(N, ) nor probabilities of shape (N, {num_classes}), as it '
            f'says {str(hard)!r}: give another loss, or other settings of it'
        ) from hard
    # LabelSmoothLoss(mode='multi_label') only asks which scores are not 0.
    scores = (
        isinstance(first, Tensor)
        and isinstance(second, Tensor)
        and not torch.equal(first, second)
    )
    return AcceptedTargets(isinstance(hard, Tensor), scores)


@torch.no_grad()
def _loss(
    module: nn.Module, logits: Tensor, target: Tensor, kwargs: dict[str, int]
) -> Tensor | Exception:
    """The loss, or why there is none."""
    try:
        # A copy, as SeesawLoss counts the labels that it sees.
        loss: Tensor = copy.deepcopy(module)(logits, target, **kwargs)
    except Exception as error:  # each loss refuses in a way of its own
        return error
    return loss
