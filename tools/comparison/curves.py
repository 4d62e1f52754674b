"""Curves of clean against worst-case accuracy, and what they are worth."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from comparison.summary import Entry, pareto_front

RESAMPLES = 1000


@dataclass(frozen=True)
class Curve:
    """What turning a method's dial gives.

    Attributes:
        points (list[str]): Names of the runs, in the order of the plan.
        dominated (list[str]): Those that a run of any curve beats in both
            accuracies.
        hypervolume (float): See :func:`hypervolume`.
        interval (tuple[float, float]): 95 % of it, over images and seeds.
        largest (float): Share in per cent of the resamples in which no other
            curve has a larger one.
    """

    points: list[str]
    dominated: list[str]
    hypervolume: float
    interval: tuple[float, float]
    largest: float


def correct_images(predictions: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which images of ``results.samples.npz`` are classified correctly.

    Returns:
        np.ndarray: bool of shape (2, N), clean and in the worst case.
    """
    correct = {
        name: predicted == predictions['label']
        for name, predicted in predictions.items()
        if name not in ('index', 'label')
    }
    return np.stack([correct['clean'], np.all([*correct.values()], axis=0)])


def hypervolume(
    clean: np.ndarray, worst: np.ndarray, between: tuple[float, float]
) -> np.ndarray:
    """The area below a Pareto front, over its width.

    It is the worst-case accuracy that a curve gives at a clean accuracy that
    is asked for, or a higher one, on average over all between two.

    Args:
        clean (np.ndarray): Clean accuracies of the points, in per cent, of
            shape (..., P).
        worst (np.ndarray): Their worst-case accuracies, of the same shape.
        between (tuple[float, float]): The lowest and the highest clean
            accuracy that is asked for.

    Returns:
        np.ndarray: In per cent, of shape (...).
    """
    order = np.argsort(clean, axis=-1)
    clean, worst = (np.take_along_axis(a, order, -1) for a in (clean, worst))
    # The best of the points to the right, from each point down to the next.
    best = np.maximum.accumulate(worst[..., ::-1], axis=-1)[..., ::-1]
    edges = np.clip(clean, *between)
    widths = np.diff(edges, axis=-1, prepend=between[0])
    area: np.ndarray = (widths * best).sum(-1) / (between[1] - between[0])
    return area


def make_curves(
    points: Mapping[str, Sequence[str]],
    entries: Sequence[Entry],
    correct: Mapping[str, Sequence[np.ndarray]],
    between: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """What each curve is worth, with intervals over images and seeds.

    Args:
        points (Mapping[str, Sequence[str]]): By curve the names of its runs.
        entries (Sequence[Entry]): The figures of all runs.
        correct (Mapping[str, Sequence[np.ndarray]]): By run and seed
            :func:`correct_images`, of the same images for all.
        between (tuple[float, float], optional): See :class:`Plan`.

    Returns:
        dict[str, Any]: ``between`` and ``curves``, a :class:`Curve` each.
    """
    on_curves = [name for names in points.values() for name in names]
    means = {e.name: e.mean for e in entries if e.name in on_curves}
    if between is None:
        every = [mean['clean'] for mean in means.values()]
        between = min(every), max(every)
    front = pareto_front(
        [e for e in entries if e.name in on_curves], 'worst_case'
    )
    found, drawn = {}, {}
    resampled = _resampled({name: correct[name] for name in on_curves})
    for curve, names in points.items():
        clean, worst = (
            np.array([means[name][figure] for name in names])
            for figure in ('clean', 'worst_case')
        )
        found[curve] = float(hypervolume(clean, worst, between))
        clean, worst = np.stack([resampled[name] for name in names], -1)
        drawn[curve] = hypervolume(clean, worst, between)
    largest = np.max([*drawn.values()], axis=0)
    return dict(
        between=list(between),
        curves={
            curve: asdict(
                Curve(
                    list(names),
                    [name for name in names if name not in front],
                    found[curve],
                    tuple(np.percentile(drawn[curve], [2.5, 97.5]).tolist()),
                    100 * float(np.mean(drawn[curve] == largest)),
                )
            )
            for curve, names in points.items()
        },
    )


def _resampled(
    correct: Mapping[str, Sequence[np.ndarray]],
) -> dict[str, np.ndarray]:
    """Accuracies of each run, of shape (2, RESAMPLES), the images drawn anew
    for all runs together and the seeds for each run."""
    rng = np.random.default_rng(0)
    num = next(iter(correct.values()))[0].shape[1]
    weights = rng.multinomial(num, np.full(num, 1 / num), RESAMPLES) / num
    found = {}
    for name, seeds in correct.items():
        each = 100 * np.stack(seeds) @ weights.T  # (seeds, 2, RESAMPLES)
        shares = rng.multinomial(
            len(seeds), np.full(len(seeds), 1 / len(seeds)), RESAMPLES
        )
        found[name] = np.einsum('skr,rs->kr', each, shares / len(seeds))
    return found
