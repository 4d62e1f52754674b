"""Which targets a method and a classifier's losses take."""

import copy
from typing import Any, NamedTuple

import torch
from mmpretrain.models import TimmClassifier
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from m2at_mm.attacks.losses import hard_labels
from m2at_mm.methods import Method


class AcceptedTargets(NamedTuple):
    """What every loss module of a classifier takes."""

    #: Labels, int64 of shape (N, ).
    labels: bool
    #: Probabilities of shape (N, K), and their values count.
    scores: bool
    #: Probabilities of shape (N, K) of which only a few are not 0, as Mixup
    #: and CutMix make them of two labels.
    mixtures: bool


def loss_modules(classifier: nn.Module) -> list[nn.Module]:
    """The modules that compute a classifier's losses."""
    return [
        module
        for name, module in classifier.named_modules()
        if name.rsplit('.', 1)[-1] == 'loss_module'
    ]


def accepted_targets(
    classifier: nn.Module, num_classes: int | None
) -> AcceptedTargets:
    """What all losses accept; anything if the classes are unknown."""
    if num_classes is None:
        return AcceptedTargets(True, True, True)
    # As mmpretrain's classifiers call it.
    averaged = not isinstance(classifier, TimmClassifier)
    found = [
        try_targets(module, num_classes, averaged)
        for module in loss_modules(classifier)
    ]
    return AcceptedTargets(*map(all, zip(*found)))


def try_targets(
    module: nn.Module, num_classes: int, averaged: bool = True
) -> AcceptedTargets:
    """Try a copy of one loss module on a few targets.

    Raises:
        ValueError: It takes neither labels nor probabilities.
    """
    # With as many images as classes, some losses broadcast what is wrong.
    num = 2 + (num_classes == 2)
    labels = torch.arange(num) % num_classes
    logits = torch.linspace(-1, 1, num * num_classes).view(num, num_classes)
    sharp = torch.full_like(logits, 0.1 / num_classes)
    sharp[torch.arange(num), labels] += 0.9
    flat = (sharp + 1 / num_classes) / 2
    kwargs = dict(avg_factor=num) if averaged else {}
    results: list[Any] = []
    for target in (labels, sharp, flat):
        try:
            # A copy, as SeesawLoss counts the labels that it sees.
            with torch.no_grad():
                loss = copy.deepcopy(module)(logits, target, **kwargs)
            results.append(loss)
        except Exception as error:  # each loss refuses in a way of its own
            results.append(error)
    hard, first, second = results
    if isinstance(hard, Exception) and isinstance(first, Exception):
        raise ValueError(
            f'loss={type(module).__name__!r} takes neither labels of shape '
            f'(N, ) nor probabilities of shape (N, {num_classes}), as it '
            f'says {str(hard)!r}: give another loss, or other settings of it'
        ) from hard
    labelled, mixed, again = (isinstance(one, Tensor) for one in results)
    # LabelSmoothLoss(mode='multi_label') only asks which scores are not 0.
    scores = mixed and again and not torch.equal(first, second)
    return AcceptedTargets(labelled, scores, mixed)


def check_soft_targets(model: Any, accepted: AcceptedTargets) -> None:
    """Refuse soft targets that a model's method or loss can't learn."""
    method: Method = model.method
    mixes = getattr(model.data_preprocessor, 'batch_augments', None)
    name = f'method={type(method).__name__!r}'
    if method.needs_hard_labels and mixes is not None:
        raise ValueError(
            f'{name} needs hard labels, but batch_augments mix them: remove '
            'batch_augments from data_preprocessor (train_cfg.augments in the '
            'stock config), or choose another method'
        )
    sources = {
        name: method.changes_labels,
        f'label_smoothing={model.label_smoothing}': model.label_smoothing > 0,
        'batch_augments': mixes is not None and not accepted.mixtures,
    }
    soft = [source for source, is_soft in sources.items() if is_soft]
    if soft and not accepted.scores:
        modules = loss_modules(model.classifier)
        losses = ', '.join(type(one).__name__ for one in modules)
        raise ValueError(
            f'{" and ".join(soft)} give soft targets, but loss={losses} takes '
            'labels only: leave them out (M2AT keeps labels with '
            "clean_label=1, perturbed_label=1 and pairing='self'; PGDAT, "
            'TRADES and MART always do), or give a loss that takes '
            'probabilities, like CrossEntropyLoss'
        )


def trainable_target(
    target: Tensor, accepted: AcceptedTargets, method: Method
) -> Tensor:
    """Labels of shape (N, ), or probabilities of shape (N, K) as floats.

    Integers of shape (N, K) are one-hot labels.

    Raises:
        ValueError: Probabilities are given to what takes labels only.
    """
    hard = method.needs_hard_labels or not accepted.mixtures
    if target.ndim == 2 and not target.is_floating_point():
        return target.argmax(1) if hard else target.float()
    if target.ndim == 2 and hard:
        raise ValueError(
            f'the batch has probabilities of shape {tuple(target.shape)} as '
            f'targets, but the method {type(method).__name__} or the loss '
            'takes labels only: give gt_label in place of gt_score, and mix '
            'no images'
        )
    return target


def as_samples(target: Tensor) -> list[DataSample]:
    """Annotations for a classifier's loss: a label, also beside a score."""
    samples = []
    # Cut up by one operation each: one for each image would keep the host
    # busier than a GPU.
    for label in hard_labels(target).view(-1, 1).unbind():
        samples.append(DataSample())
        samples[-1].set_field(label, 'gt_label', dtype=Tensor)
    if target.ndim == 2:
        for sample, score in zip(samples, target.unbind()):
            sample.set_field(score, 'gt_score', dtype=Tensor)
    return samples
