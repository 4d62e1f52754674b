"""The losses an attack raises: one number per image, from its logits.

An attack sums them over the batch, so an image's gradient depends neither on
the batch size nor on the other images.
"""

from __future__ import annotations

from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

AttackLoss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy per image.

    Args:
        logits (Tensor): Shape (N, K).
        target (Tensor): Labels, int64 of shape (N, ), or probabilities of
            shape (N, K).

    Returns:
        Tensor: Shape (N, ).
    """
    return F.cross_entropy(logits, target, reduction='none')


def margin(logits: Tensor, target: Tensor) -> Tensor:
    """Margin of the best wrong class: max_{k != y} z_k - z_y, per image.

    The loss f_6 of Carlini and Wagner (arXiv 1608.04644, section V-A) with
    the sign turned, without its cut at a confidence. Positive where the image
    is misclassified. It neither saturates nor vanishes with the size of the
    logits, as the cross-entropy does.

    Args:
        logits (Tensor): Shape (N, K).
        target (Tensor): Labels, int64 of shape (N, ), or probabilities of
            shape (N, K), whose largest is taken as the label.

    Returns:
        Tensor: Shape (N, ).
    """
    label = hard_labels(target).unsqueeze(1)
    own = logits.gather(1, label)
    others = logits.scatter(1, label, -torch.inf)
    return others.amax(1) - own.squeeze(1)


def kl_divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """KL(softmax(reference) || softmax(logits)) per image.

    With the clean image's logits as reference it is the attack loss of TRADES
    (arXiv 1901.08573, equation 5).

    Args:
        logits (Tensor): Shape (N, K).
        reference (Tensor): Logits of shape (N, K).

    Returns:
        Tensor: Shape (N, ).
    """
    return F.kl_div(
        F.log_softmax(logits, dim=1),
        F.log_softmax(reference, dim=1),
        reduction='none',
        log_target=True,
    ).sum(1)


# The losses by the name that a config gives. 'kl' takes the clean logits in
# place of the target.
LOSSES: dict[str, AttackLoss] = {
    'ce': cross_entropy,
    'margin': margin,
    'kl': kl_divergence,
}


def hard_labels(target: Tensor) -> Tensor:
    """Labels of shape (N, ) from labels or probabilities of shape (N, K)."""
    return target if target.ndim == 1 else target.argmax(1)
