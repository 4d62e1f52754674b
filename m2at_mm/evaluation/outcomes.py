"""What an evaluation found out about each image."""

import math
from dataclasses import dataclass, field

import numpy as np

from m2at_mm.attacks import ThreatModel


@dataclass
class Outcomes:
    """Predictions on every image, clean and under each attack of one radius.

    Arrays are of shape (N, ). An image that is misclassified clean is not
    attacked and keeps its prediction, which is -1 where the logits are not
    finite.

    Attributes:
        labels (np.ndarray): True labels, int64.
        predictions (dict): Predicted labels by attack, with ``'clean'``.
        parts (dict): For an attack of several parts, the predictions after
            each.
        seconds (dict): Per attack, summed over the processes.
        outside (dict): Adversarial images outside ball or box.
        stuck (dict): By attack that climbs a loss step by step, images that
            withstand and whose loss did not rise at all.
        second_opinion (np.ndarray, optional): Predicted labels after the
            second opinion about the images that withstand all attacks.
        positions (np.ndarray, optional): In the dataset.
    """

    threat_model: ThreatModel
    labels: np.ndarray
    predictions: dict[str, np.ndarray]
    parts: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    outside: dict[str, int] = field(default_factory=dict)
    stuck: dict[str, int] = field(default_factory=dict)
    second_opinion: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)
    num_classes: int | None = None
    positions: np.ndarray | None = None

    def correct(self, name: str) -> np.ndarray:
        """Which images are classified correctly, bool of shape (N, )."""
        return np.asarray(self.predictions[name] == self.labels)

    def withstanding(self) -> np.ndarray:
        """Which are correct clean and under every attack, shape (N, )."""
        right = [*map(self.correct, self.predictions)]
        return np.asarray(np.logical_and.reduce(right))

    def worst(self) -> np.ndarray:
        """Which withstand, also in the second opinion; shape (N, )."""
        left = self.withstanding()
        if self.second_opinion is not None:
            left &= self.second_opinion == self.labels
        return left

    @property
    def attacks(self) -> list[str]:
        """The attacks' names, without ``'clean'``."""
        return [name for name in self.predictions if name != 'clean']

    @property
    def chance(self) -> float:
        """Accuracy of guessing, in per cent; 0 if the classes are unknown."""
        return 100 / self.num_classes if self.num_classes else 0.0


def percent(correct: np.ndarray) -> float:
    """The share of True, in per cent."""
    return 100 * int(correct.sum()) / len(correct)


def wilson_interval(
    successes: int, total: int, z: float = 1.959964
) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927, JASA 22:209), in per cent.

    ``z`` is the quantile of the normal distribution, by default for 95 %.
    """
    share, scale = successes / total, 1 + z * z / total
    centre = share + z * z / (2 * total)
    variance = share * (1 - share) / total + z * z / (4 * total * total)
    spread = z * math.sqrt(variance)
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == total else (centre + spread) / scale
    return 100 * low, 100 * high
