"""Robust validation, timed beside the loop that is written by hand."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from mmpretrain.structures import DataSample
from torch import Tensor

from m2at_mm.benchmark.contestants import PlainLoop
from m2at_mm.benchmark.interleaving import now
from m2at_mm.model_wrappers import AdversarialClassifier

Batch = tuple[Tensor, Tensor]


def time_validation(
    model: AdversarialClassifier, batches: Sequence[Batch], rounds: int
) -> dict[str, Any]:
    """Clean and robust accuracy of the same images, computed in two ways.

    ``'m2at_mm'`` is what validation calls, ``predict`` with an eval attack;
    ``'plain'`` attacks all images with all steps, in eval mode. They take
    turns, in each round.

    Args:
        model (AdversarialClassifier): With one eval attack, a ``PGD``.
        batches (Sequence[tuple]): Images, RGB in [0, 1], shape
            (N, C, H, W), and labels, int64 of shape (N, ).
        rounds (int): That are measured, after one to warm up.

    Returns:
        dict[str, Any]: ``times``, the seconds by name and round in the shape
        that :func:`summarise` takes, and ``accuracy``, by name the clean and
        the robust one, in per cent.

    Raises:
        ValueError: The model has not one eval attack.
    """
    if len(model.eval_attacks) != 1:
        raise ValueError(
            f'eval_attacks={sorted(model.eval_attacks)} must be one attack, '
            'to be compared with one loop'
        )
    model.eval()
    (attack,) = model.eval_attacks.values()
    loop = PlainLoop(model, *batches[0], attack)
    loop.network.eval()
    ways = {
        'm2at_mm': functools.partial(_predict, model),
        'plain': functools.partial(_by_hand, loop),
    }
    times: dict[str, list[list[float]]] = {name: [] for name in ways}
    accuracy: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for name, way in ways.items():
            since = now()
            right = torch.stack([way(*batch) for batch in batches])
            if number:
                times[name].append([now() - since])
            total = sum(len(labels) for _, labels in batches)
            accuracy[name] = (100 * right.sum(0) / total).tolist()
    return dict(times=times, accuracy=accuracy)


def _predict(
    model: AdversarialClassifier, images: Tensor, labels: Tensor
) -> Tensor:
    """How many are right, clean and attacked, shape (2, )."""
    samples = [DataSample().set_gt_label(n) for n in labels.tolist()]
    (name,) = model.eval_attacks
    with torch.no_grad():
        found = model(images, samples, mode='predict')
    right = [
        (
            sample.pred_label.item() == label,
            sample.adversarial_pred_labels[name] == label,
        )
        for sample, label in zip(found, labels.tolist())
    ]
    return torch.tensor(right).sum(0)


def _by_hand(loop: PlainLoop, images: Tensor, labels: Tensor) -> Tensor:
    """How many are right, clean and attacked, shape (2, )."""
    loop.load(images, labels)
    adversarial = loop.attack()
    with torch.no_grad():
        right = [
            (loop.network(one).argmax(1) == labels).sum()
            for one in (loop.images, adversarial)
        ]
    return torch.stack(right).cpu()
