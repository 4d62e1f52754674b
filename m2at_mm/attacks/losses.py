"""The losses that an attack raises: one number per image, from its logits.

Logits are of shape (N, K), the target is labels, (N, ), or probabilities,
(N, K). An attack sums the losses over the batch.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

AttackLoss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy per image."""
    return F.cross_entropy(logits, target, reduction='none')


def margin(logits: Tensor, target: Tensor) -> Tensor:
    """Best wrong logit minus the right one; -f_6 of arXiv 1608.04644, V-A."""
    label = hard_labels(target).unsqueeze(1)
    others = logits.scatter(1, label, -torch.inf)
    return others.amax(1) - logits.gather(1, label).squeeze(1)


def kl_divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """KL(softmax(reference) || softmax(logits)), arXiv 1901.08573, eq. 5."""
    log_p, log_q = (F.log_softmax(z, dim=1) for z in (logits, reference))
    return F.kl_div(log_p, log_q, reduction='none', log_target=True).sum(1)


# The losses by the name that a config gives. 'kl' takes the clean logits in
# place of the target.
LOSSES: dict[str, AttackLoss] = dict(ce=cross_entropy, margin=margin)
LOSSES['kl'] = kl_divergence


def as_target(
    target: Tensor, num_images: int, check_values: bool = True
) -> Tensor:
    """Labels, (N, ), or probabilities, (N, K), as the losses take them."""
    if target.shape == (num_images,) and not target.is_floating_point():
        labels = target.long()
        if check_values and bool((labels < 0).any()):
            raise ValueError(
                f'target has label {int(labels.min())}: labels are classes, '
                'counted from 0'
            )
        return labels
    is_table = target.ndim == 2 and len(target) == num_images
    if not is_table or target.shape[1] < 2 or target.is_complex():
        raise TypeError(
            f'target must be labels, whole numbers of shape ({num_images}, ), '
            f'or probabilities of shape ({num_images}, K), but got '
            f'{target.dtype} of shape {tuple(target.shape)}'
        )
    scores = target if target.is_floating_point() else target.float()
    if check_values:
        totals = scores.sum(1, dtype=torch.float64)
        if not bool((scores >= 0).all() & ((totals - 1).abs() < 0.01).all()):
            raise ValueError(
                'target has rows that are no probabilities: they are in '
                f'[{scores.min():g}, {scores.max():g}] and add up to '
                f'{totals.min():g} to {totals.max():g}, not to 1. Give an '
                'image one label, or apply softmax'
            )
    return scores


def check_classes(
    target: Tensor, num_classes: int, check_values: bool = True
) -> None:
    """Refuse a target of other classes; labels only with ``check_values``."""
    if target.ndim == 2:
        fits = target.shape[1] == num_classes
        found = f'probabilities of {target.shape[1]} classes'
    else:
        largest = int(target.max()) if check_values and len(target) else 0
        fits, found = largest < num_classes, f'label {largest}'
    if not fits:
        raise ValueError(
            f'target has {found}, but the model has {num_classes} classes, '
            f'0 to {num_classes - 1}: mend the labels, or give the model that '
            'belongs to them'
        )


def hard_labels(target: Tensor) -> Tensor:
    """Labels of shape (N, ) from labels or probabilities of shape (N, K)."""
    return target if target.ndim == 1 else target.argmax(1)
