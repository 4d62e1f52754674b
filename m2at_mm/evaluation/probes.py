"""Measures on a few images whether gradients can be trusted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from m2at_mm.attacks import (
    ThreatModel,
    attack_mode,
    cross_entropy,
    own_random_stream,
    pgd,
)
from m2at_mm.attacks.logits import logits_of, predicted_labels
from m2at_mm.attacks.losses import margin
from m2at_mm.evaluation.attackable import Attackable
from m2at_mm.evaluation.batches import run_in_memory

#: Images that are probed, at most.
NUM_PROBED = 128
# The radius at which every model must fall (arXiv 1902.06705), and how many
# times the evaluated one it is at least.
_LARGE_EPS = 64 / 255
_LARGE_FACTOR = 4
# Random directions per image in which the gradient is checked.
_DIRECTIONS = 4


def probe(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat_model: ThreatModel,
    seed: int = 0,
    batch_size: int = NUM_PROBED,
) -> dict[str, Any]:
    """Figures that :func:`m2at_mm.evaluation.find_alarms` judges.

    Args:
        model (nn.Module): Maps images in [0, 1], shape (N, C, H, W), to
            logits of shape (N, K), in eval mode.
        images (Tensor): Correctly classified images, shape (N, C, H, W).
        labels (Tensor): Their labels, shape (N, ).
        threat_model (ThreatModel): What is evaluated.
        seed (int): Of the random draws. Defaults to 0.
        batch_size (int): Images at a time, halved where a GPU's memory does
            not suffice. Defaults to all.

    Returns:
        dict: ``num_images``, ``num_classes``;
        ``pass_difference`` and ``batch_difference``, the largest change of an
        image's logits, relative to their length, from one forward pass to the
        next (without and with gradients) and from a full to a halved batch;
        ``probabilities``, whether the outputs are probabilities;
        ``non_finite_gradients``, the share of images with a gradient, or
        logits near the image, that are not finite;
        ``vanishing_gradients``, the share where the gradient of the margin
        predicts that not even 1000 times the radius reaches the decision
        boundary; of the others, ``gradient_agreement``, the median
        ratio of finite differences along the gradient to its length, and
        ``gradient_correlation``, of finite differences in random directions
        with what the gradient says of them: both 1 if it is right;
        ``saturated_loss``, the share where the cross-entropy is exactly 0 in
        float32; ``median_margin`` of the logits; ``large_eps`` and
        ``large_eps_correct``, the number of images that withstand PGD-20 on
        both losses at that radius.
    """
    found: list[tuple[Tensor, ...]] = []
    with own_random_stream(images.device, seed):
        for part in range(0, len(images), batch_size):
            chosen = slice(part, part + batch_size)
            found.append(
                run_in_memory(
                    lambda x, y: _probe_batch(model, x, y, threat_model),
                    images[chosen],
                    labels[chosen],
                )
            )
        num_classes = logits_of(model, images[:1]).shape[1]
    columns = [torch.cat(column).double().cpu() for column in zip(*found)]
    return _summarise(
        columns, num_classes, _large_radius(images, threat_model)
    )


def _summarise(
    columns: list[Tensor], num_classes: int, large_eps: float
) -> dict[str, Any]:
    (
        again,
        halved,
        probability,
        broken,
        vanishing,
        ratio,
        expected,
        measured,
        loss,
        distance,
        withstood,
    ) = columns
    known = loss.isfinite() & distance.isfinite() & ratio.isfinite()
    known &= expected.isfinite().all(1) & measured.isfinite().all(1)
    broken = broken.where(known, 1.0)
    right = (vanishing == 0) & (broken == 0)
    figures: dict[str, Any] = dict(
        num_images=len(loss),
        num_classes=num_classes,
        # Of logits that are not a number the whole has changed.
        pass_difference=float(again.nan_to_num(1.0, 1.0).max()),
        batch_difference=float(halved.nan_to_num(1.0, 1.0).max()),
        probabilities=bool(probability.all()),
        non_finite_gradients=float(broken.mean()),
        vanishing_gradients=float(vanishing.mean()),
        saturated_loss=float((loss == 0).double().mean()),
        median_margin=float(distance.nan_to_num().median()),
        large_eps=large_eps,
        large_eps_correct=int(withstood.sum()),
    )
    if bool(right.any()):
        figures['gradient_agreement'] = float(ratio[right].median())
        one, other = expected[right].flatten(), measured[right].flatten()
        length = (one.square().sum() * other.square().sum()).sqrt()
        figures['gradient_correlation'] = float(
            (one * other).sum() / length.clamp(min=1e-300)
        )
    return figures


def _probe_batch(
    model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> tuple[Tensor, ...]:
    """One entry per image and figure; see :func:`_summarise`."""
    outputs = _probe_outputs(model, images, labels)
    attackable = Attackable(model)
    gradients = _probe_gradients(model, images, labels, threat)
    return (
        *outputs[:3],
        *gradients,
        *outputs[3:],
        _withstands(attackable, images, labels, threat),
    )


@torch.no_grad()
def _probe_outputs(
    model: nn.Module, images: Tensor, labels: Tensor
) -> tuple[Tensor, ...]:
    first, second = (logits_of(model, images).float() for _ in range(2))
    with attack_mode(model):
        third = logits_of(model, images.clone().requires_grad_(True))
        third = third.detach().float()
    half = max(1, len(images) // 2)
    halves = torch.cat(
        [
            logits_of(model, part)
            for part in (images[:half], images[half:])
            if len(part)
        ]
    )
    again = torch.maximum(
        _difference(first, second), _difference(first, third)
    )
    return (
        again,
        _difference(first, halves.float()),
        (first >= 0).all(1) & ((first.sum(1) - 1).abs() < 1e-4),
        cross_entropy(first, labels),
        -margin(first, labels),
    )


def _difference(first: Tensor, second: Tensor) -> Tensor:
    """Change of each image's logits relative to their length, (N, )."""
    length = first.norm(dim=1).clamp(min=1e-30)
    change: Tensor = (first - second).norm(dim=1) / length
    return change


def _probe_gradients(
    model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> tuple[Tensor, ...]:
    with attack_mode(model):
        leaf = images.clone().requires_grad_(True)
        losses = margin(logits_of(model, leaf).float(), labels)
        gradient = torch.zeros_like(images)
        if losses.requires_grad:
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    flat = gradient.double().flatten(1)
    broken = ~flat.isfinite().all(1)
    flat = flat.nan_to_num(0.0, 0.0, 0.0)
    distance = -losses.detach().double()
    # The most that a change of length eps can do to first order: eps times
    # the dual norm of the gradient.
    length = flat.norm(dim=1)
    slope = flat.abs().sum(1) if threat.norm == 'linf' else length
    eps = max(threat.eps, 8 / 255)
    vanishing = (slope * eps * 1000 < distance) | (slope == 0)
    # Steps of a thousandth of the pixel range, but shorter where the decision
    # boundary is near, for there the margin bends.
    longest = 1e-3 * flat.shape[1] ** 0.5
    scale = length.clamp(min=1e-30)
    reach = (0.1 * distance / scale).clamp(0.01 * longest, longest)
    unit = flat / scale.unsqueeze(1)
    ratio = _slope(model, images, labels, unit, reach) / scale
    expected, measured = [], []
    for _ in range(_DIRECTIONS):
        direction = torch.randn_like(images).double().flatten(1)
        direction = direction / direction.norm(dim=1, keepdim=True)
        # In units of the gradient, so that each image counts the same.
        expected.append((unit * direction).sum(1))
        measured.append(
            _slope(model, images, labels, direction, reach) / scale
        )
    return (
        broken,
        vanishing,
        ratio,
        torch.stack(expected, 1),
        torch.stack(measured, 1),
    )


@torch.no_grad()
def _slope(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    direction: Tensor,
    reach: Tensor,
) -> Tensor:
    """The margin's slope in a direction, by a central difference, (N, )."""
    step = (reach.unsqueeze(1) * direction).view(images.shape).to(images.dtype)
    ahead = margin(logits_of(model, images + step).double(), labels)
    behind = margin(logits_of(model, images - step).double(), labels)
    return (ahead - behind) / (2 * reach)


def _large_radius(images: Tensor, threat: ThreatModel) -> float:
    large = max(_LARGE_EPS, _LARGE_FACTOR * threat.eps)
    if threat.norm == 'linf':
        return min(1.0, large)
    # As long as the corner of the linf ball, to reach as far.
    reach: float = _LARGE_EPS * images[0].numel() ** 0.5
    return max(reach, _LARGE_FACTOR * threat.eps)


def _withstands(
    model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> Tensor:
    """Which images withstand the large radius, bool of shape (N, )."""
    eps = _large_radius(images, threat)
    large = threat.with_eps(eps)
    correct = torch.ones_like(labels, dtype=torch.bool)
    for loss in ('ce', 'margin'):
        adversarial = pgd(
            model,
            images,
            labels,
            large,
            steps=20,
            loss=loss,
            stop_when_fooled=True,
        )
        with torch.no_grad():
            correct &= (
                predicted_labels(logits_of(model, adversarial)) == labels
            )
    return correct
