"""Labels as probabilities."""

import torch
from torch import Tensor


def smooth_labels(target: Tensor, confidence: float) -> Tensor:
    """ls(y, q) = q*y + (1 - q)/(K - 1)*(1 - y), shape (N, K), q in [0, 1]."""
    others = (1 - confidence) / (target.size(1) - 1)
    return confidence * target + others * (1 - target)


def one_hot(target: Tensor, num_classes: int | None) -> Tensor:
    """Probabilities of shape (N, K) from labels; probabilities stay."""
    if target.ndim == 2:
        return target
    if num_classes is None:
        raise ValueError(
            'soft labels need the number of classes: set num_classes in '
            'data_preprocessor'
        )
    # F.one_hot looks at the labels first, for which the host waits.
    scores = torch.zeros(len(target), num_classes, device=target.device)
    return scores.scatter_(1, target.unsqueeze(1), 1.0)
