"""Measures on a few images whether gradients can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from m2at_mm.attacks import (
    PGD,
    ThreatModel,
    attack_mode,
    cross_entropy,
    own_random_stream,
)
from m2at_mm.attacks.logits import logits_of, predicted_labels
from m2at_mm.attacks.losses import margin
from m2at_mm.evaluation.attacked_model import Attackable, run_in_memory

#: Images that are probed, at most.
NUM_PROBED = 128
# The radius at which every model must fall (arXiv 1902.06705), and how many
# times the evaluated one it is at least.
_LARGE_EPS = 64 / 255
_LARGE_FACTOR = 4
# Random directions per image in which the gradient is checked.
_DIRECTIONS = 4

Columns = dict[str, Tensor]


def probe(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat_model: ThreatModel,
    seed: int = 0,
    batch_size: int = NUM_PROBED,
) -> dict[str, Any]:
    """Measure the figures that :func:`m2at_mm.evaluation.find_alarms` judges.

    The model is in eval mode, and classifies the images, shape (N, C, H, W),
    correctly by the labels, shape (N, ).

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

    def measure(images: Tensor, labels: Tensor) -> Columns:
        columns: Columns = {}
        for one in _MEASURES:
            columns |= one(model, images, labels, threat_model)
        return columns

    with own_random_stream(images.device, seed):
        columns = run_in_memory(measure, images, labels, batch_size)
        num_classes = logits_of(model, images[:1]).shape[1]
    columns = {name: one.double().cpu() for name, one in columns.items()}
    figures: dict[str, Any] = dict(
        num_images=len(images),
        num_classes=num_classes,
        large_eps=_large_radius(images, threat_model),
    )
    figures |= {name: one(columns).item() for name, one in _FIGURES.items()}
    return figures | _check_gradient(columns)


@torch.no_grad()
def _outputs(
    model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> Columns:
    first, again = (logits_of(model, images).float() for _ in range(2))
    with attack_mode(model):
        leaf = images.clone().requires_grad_(True)
        for_gradient = logits_of(model, leaf).detach().float()
    halves = images.tensor_split([max(1, len(images) // 2)])
    halved = torch.cat(
        [logits_of(model, half) for half in halves if len(half)]
    )

    def change(other: Tensor) -> Tensor:
        length = first.norm(dim=1).clamp(min=1e-30)
        changed: Tensor = (first - other).norm(dim=1) / length
        return changed

    return dict(
        pass_difference=torch.maximum(change(again), change(for_gradient)),
        batch_difference=change(halved.float()),
        probability=(first >= 0).all(1) & ((first.sum(1) - 1).abs() < 1e-4),
        loss=cross_entropy(first, labels),
        margin=-margin(first, labels),
    )


def _gradients(
    model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> Columns:
    """The margin's gradient, and how the margin really changes."""
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
    return dict(
        broken=broken,
        vanishing=(slope * eps * 1000 < distance) | (slope == 0),
        **_slopes(model, images, labels, flat, distance),
    )


@torch.no_grad()
def _slopes(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    gradient: Tensor,
    distance: Tensor,
) -> Columns:
    """Central differences of the margin, in units of the gradient's length.

    They are taken along the gradient, shape (N, ), and in random directions,
    shape (N, D), for which the gradient's own slope is given, too.
    """
    scale = gradient.norm(dim=1).clamp(min=1e-30)
    unit = gradient / scale.unsqueeze(1)
    # Steps of a thousandth of the pixel range, but shorter where the decision
    # boundary is near, for there the margin bends.
    longest = 1e-3 * gradient.shape[1] ** 0.5
    reach = (0.1 * distance / scale).clamp(0.01 * longest, longest)

    def measured(direction: Tensor) -> Tensor:
        step = (reach.unsqueeze(1) * direction).view_as(images).to(images)
        ahead, behind = (
            margin(logits_of(model, moved).double(), labels)
            for moved in (images + step, images - step)
        )
        slope: Tensor = (ahead - behind) / (2 * reach) / scale
        return slope

    ratio = measured(unit)
    pairs = []
    for _ in range(_DIRECTIONS):
        direction = torch.randn_like(images).double().flatten(1)
        direction = direction / direction.norm(dim=1, keepdim=True)
        pairs.append(((unit * direction).sum(1), measured(direction)))
    expected, found = (torch.stack(one, 1) for one in zip(*pairs))
    return dict(ratio=ratio, expected=expected, measured=found)


def _large_radius(images: Tensor, threat: ThreatModel) -> float:
    large = _LARGE_FACTOR * threat.eps
    if threat.norm == 'linf':
        return min(1.0, max(_LARGE_EPS, large))
    # As long as the corner of the linf ball, to reach as far.
    return max(float(_LARGE_EPS * images[0].numel() ** 0.5), large)


def _withstanding(
    model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> Columns:
    """Which images withstand PGD-20 on both losses at the large radius."""
    large = threat.with_eps(_large_radius(images, threat))
    withstood = torch.ones_like(labels, dtype=torch.bool)
    for loss in ('ce', 'margin'):
        adversarial = PGD(steps=20, loss=loss)(
            Attackable(model), images, labels, large, stop_when_fooled=True
        )
        with torch.no_grad():
            predicted = predicted_labels(logits_of(model, adversarial))
        withstood &= predicted == labels
    return dict(withstood=withstood)


def _broken(columns: Columns) -> Tensor:
    """Where the gradient, or logits near the image, are not finite."""
    names = ('loss', 'margin', 'ratio', 'expected', 'measured')
    known = [
        columns[n].view(len(columns[n]), -1).isfinite().all(1) for n in names
    ]
    return (columns['broken'] == 1) | ~torch.stack(known).all(0)


def _check_gradient(columns: Columns) -> dict[str, float]:
    """Agreement and correlation where a gradient can be checked at all."""
    right = (columns['vanishing'] == 0) & ~_broken(columns)
    if not right.any():
        return {}
    one, other = (
        columns[name][right].flatten() for name in ('expected', 'measured')
    )
    length = (one.square().sum() * other.square().sum()).sqrt()
    return dict(
        gradient_agreement=float(columns['ratio'][right].median()),
        gradient_correlation=float(
            (one * other).sum() / length.clamp(min=1e-300)
        ),
    )


# What is measured of each image of a batch, in tensors by name: one entry, or
# one row, per image.
_MEASURES = (_outputs, _gradients, _withstanding)
# The figures by name, from what was measured of all images, in float64. Of
# logits that are not a number the whole has changed.
_FIGURES: dict[str, Callable[[Columns], Tensor]] = dict(
    pass_difference=lambda c: c['pass_difference'].nan_to_num(1.0, 1.0).max(),
    batch_difference=lambda c: (
        c['batch_difference'].nan_to_num(1.0, 1.0).max()
    ),
    probabilities=lambda c: c['probability'].bool().all(),
    non_finite_gradients=lambda c: _broken(c).double().mean(),
    vanishing_gradients=lambda c: c['vanishing'].mean(),
    saturated_loss=lambda c: (c['loss'] == 0).double().mean(),
    median_margin=lambda c: c['margin'].nan_to_num().median(),
    large_eps_correct=lambda c: c['withstood'].long().sum(),
)
