"""MALT: targeted APGD, at the classes whose boundaries seem nearest."""

from typing import Any

import torch
from torch import Tensor

# Classes of the largest logits that are put in order (ours): each costs a
# backward pass.
_CANDIDATES = 100


def malt(apgd: Any, images: Tensor, labels: Tensor) -> Tensor:
    """Attack images by APGD on the margin, one class after another.

    Melamed et al., arXiv 2407.02240: where a model is nearly linear, the
    boundary to class c is as far away as (f_y - f_c) over the dual norm of
    its gradient. So few targets are needed, tried in this order and not in
    that of the logits; the loss is f_c - f_y.

    Args:
        apgd: ``APGDAttack_targeted`` of ``pyautoattack``, with its number of
            targets. Its loss is replaced.
        images (Tensor): In [0, 1], shape (N, C, H, W), N at least 1.
        labels (Tensor): int64 of shape (N, ).

    Returns:
        Tensor: Images of the same shape; those that withstand every target
        are where the last one led.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return _lead(logits, apgd.y_target, labels)

    apgd.dlr_loss_targeted = loss
    apgd.init_hyperparam(images)
    order = _nearest_classes(apgd, images, labels)
    found, left = images.clone(), torch.arange(len(images)).to(labels.device)
    torch.manual_seed(apgd.seed)
    for target in order.unbind(1):
        apgd.y_target = target[left]
        _, withstood, _, moved = apgd.attack_single_run(
            images[left], labels[left]
        )
        found[left] = moved
        left = left[withstood > 0]
        if not len(left):
            break
    return found


def _lead(logits: Tensor, classes: Tensor, labels: Tensor) -> Tensor:
    """The logit of a class less that of the label, shape (N, )."""
    pair = torch.stack([labels, classes], 1)
    leads: Tensor = logits.gather(1, pair).diff(dim=1).squeeze(1)
    return leads


@torch.enable_grad()
def _nearest_classes(apgd: Any, images: Tensor, labels: Tensor) -> Tensor:
    """The wrong classes to aim at, nearest first, shape (N, T)."""
    images = images.detach().clone().requires_grad_(True)
    logits = apgd.model(images)
    wrong = logits.detach().scatter(1, labels.unsqueeze(1), -torch.inf)
    ranked = wrong.argsort(1, descending=True)[:, :-1][:, :_CANDIDATES]
    dual = 1 if apgd.norm == 'Linf' else 2
    distances = []
    for classes in ranked.unbind(1):
        lead = _lead(logits, classes, labels)
        (gradient,) = torch.autograd.grad(
            lead.sum(), images, retain_graph=True
        )
        slope = gradient.flatten(1).norm(dual, dim=1)
        distances.append(-lead.detach() / slope.clamp(min=1e-30))
    nearest = torch.stack(distances, 1).argsort(1)
    order: Tensor = ranked.gather(1, nearest)
    return order[:, : int(apgd.n_target_classes)]
