"""What a step along the gradient really changes."""

import torch
from torch import Tensor, nn

from m2at_mm.attacks import PGD, ThreatModel, margin
from m2at_mm.attacks.logits import logits_of
from m2at_mm.attacks.threat_model import unit_direction
from m2at_mm.evaluation.attacked_model import Attackable, margin_gradient

# Random directions per image in which the gradient is checked.
_DIRECTIONS = 4
# Lengths of the steps up the gradient: one that is short enough for any
# network, and one that attacks take.
_SHORT, _LONG = 0.25 / 255, 1 / 255
# The least share of the predicted change: undefended networks, the most
# curved ones, have 0.8 in the median, and no image below 0.3.
_REALISED = 0.3

Columns = dict[str, Tensor]


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Cosine of two batches of gradients, (N, ); 0 where one is zero."""
    pair = (gradient.nan_to_num(0.0, 0.0, 0.0) for gradient in (one, other))
    one, other = (unit_direction(gradient).flatten(1) for gradient in pair)
    return (one * other).sum(1)


@torch.no_grad()
def realised_steps(
    model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> Columns:
    """Ratios of realised to predicted change, of every second image."""
    images, labels = images[::2], labels[::2]
    ball, attack = threat.ball(images), PGD(steps=10, loss='margin')
    path = attack(Attackable(model), images, labels, threat)
    found = []
    for place in (images, ball.random_start(), path):
        before, gradient = margin_gradient(model, place, labels)
        gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
        direction = gradient.sign()
        if threat.norm == 'l2':  # as long as the corner of the linf ball
            direction = unit_direction(gradient) * images[0].numel() ** 0.5
        slope = (gradient * direction).double().flatten(1).sum(1)
        ratios = []
        for length in (_SHORT, _LONG):
            logits = logits_of(model, place + length * direction)
            change = margin(logits.double(), labels) - before.double()
            predicted = length * slope
            # In half precision small changes are lost in rounding.
            rounding = 20 * torch.finfo(logits.dtype).eps
            told = predicted > rounding * logits.double().abs().amax(1)
            ratio = change / predicted.clamp(min=1e-30)
            ratios.append(torch.where(told | (predicted == 0), ratio, 1.0))
        noise = torch.empty_like(images).uniform_(-_LONG, _LONG)
        near = margin_gradient(model, place + noise, labels)[1]
        found.append((*ratios, cosine(gradient, near)))
    short, far, correlation = (torch.stack(one, 1) for one in zip(*found))
    return dict(
        realised_short=short,
        realised_long=far,
        noise_correlation=correlation,
        misled=short.amin(1) < _REALISED,
    )


@torch.no_grad()
def gradients(
    model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> Columns:
    """The margin's gradient, and how the margin really changes.

    Central differences of the margin, in units of the gradient's length, are
    taken along the gradient, shape (N, ), and in random directions, shape
    (N, D), for which the gradient's own slope is given, too.
    """
    losses, gradient = margin_gradient(model, images, labels)
    flat = gradient.double().flatten(1)
    broken = ~flat.isfinite().all(1)
    flat = flat.nan_to_num(0.0, 0.0, 0.0)
    distance, length = -losses.double(), flat.norm(dim=1)
    # The most that a change of length eps can do to first order: eps times
    # the dual norm of the gradient.
    slope = flat.abs().sum(1) if threat.norm == 'linf' else length
    change = slope * max(threat.eps, 8 / 255)
    vanishing = (change * 1000 < distance) | (slope == 0)
    scale = length.clamp(min=1e-30)
    unit = flat / scale.unsqueeze(1)
    # Steps of a thousandth of the pixel range, but shorter where the decision
    # boundary is near, for there the margin bends.
    longest = 1e-3 * flat.shape[1] ** 0.5
    reach = (0.1 * distance / scale).clamp(0.01 * longest, longest)

    def difference(direction: Tensor) -> Tensor:
        step = (reach.unsqueeze(1) * direction).view_as(images).to(images)
        moved = (logits_of(model, images + d).double() for d in (step, -step))
        ahead, behind = (margin(logits, labels) for logits in moved)
        return torch.as_tensor((ahead - behind) / (2 * reach) / scale)

    found = dict(broken=broken, vanishing=vanishing, ratio=difference(unit))
    pairs = []
    for _ in range(_DIRECTIONS):
        direction = torch.randn_like(images).double().flatten(1)
        direction = direction / direction.norm(dim=1, keepdim=True)
        pairs.append(((unit * direction).sum(1), difference(direction)))
    expected, measured = (torch.stack(one, 1) for one in zip(*pairs))
    return dict(found, expected=expected, measured=measured)


def is_broken(columns: Columns) -> Tensor:
    """Where the gradient, or logits near the image, are not finite."""
    broken = columns['broken'] == 1
    for name in ('loss', 'margin', 'ratio', 'expected', 'measured'):
        column = columns[name].view(len(broken), -1)
        broken = broken | ~column.isfinite().all(1)
    return broken


def check_gradient(columns: Columns) -> dict[str, float]:
    """Agreement and correlation where a gradient can be checked at all."""
    right = (columns['vanishing'] == 0) & ~is_broken(columns)
    if not right.any():
        return {}
    names = ('expected', 'measured')
    one, other = (columns[name][right].flatten() for name in names)
    length = (one.square().sum() * other.square().sum()).sqrt()
    agreement = float(columns['ratio'][right].median())
    correlation = float((one * other).sum() / length.clamp(min=1e-300))
    return dict(gradient_agreement=agreement, gradient_correlation=correlation)
