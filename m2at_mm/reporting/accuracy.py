"""The figures of an evaluation, as a report shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from m2at_mm.evaluation.outcomes import wilson_interval

#: An accuracy and its 95 % interval, in per cent.
Accuracy = tuple[float, tuple[float, float]]


def accuracies(
    results: Mapping[str, Any],
) -> dict[str, Accuracy]:
    """Accuracy and interval by attack, with clean and the worst case.

    Args:
        results (Mapping): Of ``results.json``, or one radius of its sweep.
            Without ``intervals``, as in files of other projects, the
            interval is the Wilson one for ``num_samples``.
    """
    values = dict(results['attacks'], worst_case=results['worst_case'])
    if 'clean' in results:
        values = dict(clean=results['clean'], **values)
    total = results['num_samples']
    known = results.get('intervals') or {}
    return {
        key: (
            value,
            tuple(
                known.get(key)
                or wilson_interval(round(value * total / 100), total)
            ),
        )
        for key, value in values.items()
    }


def shown_attacks(runs: Iterable[Mapping[str, Any]]) -> list[str]:
    """What :func:`accuracies` has of any of the runs, in order.

    Args:
        runs (Iterable[Mapping]): Each of ``results.json``.
    """
    found = dict.fromkeys(name for one in runs for name in accuracies(one))
    return [
        *(name for name in found if name != 'worst_case'),
        'worst_case',
    ]


def sweep_points(
    results: Mapping[str, Any],
) -> dict[float, Accuracy]:
    """Worst-case accuracy and interval by radius, clean at radius 0."""
    return {
        0.0: accuracies(results)['clean'],
        **{
            one['threat_model']['eps']: accuracies(one)['worst_case']
            for one in results['sweep']
        },
    }


def confusion(
    labels: np.ndarray, predicted: np.ndarray, classes: int
) -> np.ndarray:
    """Count predictions per class.

    Args:
        labels (np.ndarray): The truth, shape (N, ).
        predicted (np.ndarray): Shape (N, ); an image of -1, whose logits are
            not finite, is left out.
        classes (int): Their number.

    Returns:
        np.ndarray: int64 of shape (classes, classes), a row per true class.
    """
    flat = (labels.astype(np.int64) * classes + predicted)[predicted >= 0]
    return np.bincount(flat, minlength=classes**2).reshape(classes, classes)


def strongest_attack(
    results: Mapping[str, Any], predictions: Mapping[str, np.ndarray]
) -> tuple[str, np.ndarray] | None:
    """The attack that leaves the lowest accuracy, and what it made of images.

    Args:
        results (Mapping): Of ``results.json``.
        predictions (Mapping[str, np.ndarray]): Of ``results.samples.npz``.

    Returns:
        tuple, optional: Its name and predictions of shape (N, ); None if the
        file has none of them.
    """
    at = f'@{results["threat_model"]["eps"] * 255:.6g}/255'
    attacks = results['attacks']
    for name in sorted(attacks, key=attacks.__getitem__):
        for key in (name, name + at):
            if key in predictions:
                return name, predictions[key]
    return None
