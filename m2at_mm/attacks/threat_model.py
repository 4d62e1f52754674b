"""What an attacker may do: a norm and a radius, on images in [0, 1]."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from m2at_mm.checks import check_choice

Pixels = str | float | int


def parse_pixels(value: Pixels, name: str) -> float:
    """Read a size on the scale of images in [0, 1], like ``'8/255'``."""
    if isinstance(value, bool) or not isinstance(value, (str, float, int)):
        raise TypeError(
            f"{name} must be a number or a fraction like '8/255', but got "
            f'{value!r} of type {type(value).__name__}'
        )
    try:
        numerator, slash, denominator = str(value).partition('/')
        number = float(numerator) / (float(denominator) if slash else 1)
    except (ValueError, ZeroDivisionError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(
            f'{name}={value!r} must be a finite number that is not negative, '
            "on the scale of images in [0, 1], or a fraction like '8/255'"
        )
    return number


def parse_length(value: Pixels, name: str) -> float:
    """Read a size; refuse plain numbers above 1, nearly always of 0-255."""
    length = parse_pixels(value, name)
    if length > 1 and '/' not in str(value):
        raise ValueError(
            f'{name}={value!r} is above 1, but images are in [0, 1]. If this '
            f"is a value on the 0-255 scale, write '{value}/255'. An l2 size "
            "above 1 is written as a fraction: '765/255' for 3.0"
        )
    return length


class ThreatModel:
    """Images that differ by at most ``eps`` in ``norm`` and stay in [0, 1].

    Args:
        norm (str): ``'linf'``, the largest change of a channel of a pixel,
            or ``'l2'``, the Euclidean length of the change of the image.
        eps (str | float): The radius, on the scale of images in [0, 1]. Above
            1, under l2, it is a fraction, e.g. ``'765/255'`` for 3.0.
    """

    def __init__(self, norm: str = 'linf', eps: Pixels = '8/255') -> None:
        check_choice('norm', norm, _BALLS)
        self.norm = norm
        self.eps = parse_length(eps, 'eps')
        if self.eps > 1 and norm == 'linf':
            raise ValueError(
                f'eps={eps!r} is above 1, the whole range of a pixel: an '
                "linf radius is at most '255/255'"
            )

    def with_eps(self, eps: float) -> ThreatModel:
        """The same norm with another radius, under l2 of any size."""
        other = copy.copy(self)
        other.eps = eps
        return other

    def ball(self, images: Tensor) -> Ball:
        """The allowed images around ``images``, shape (N, C, H, W)."""
        return _BALLS[self.norm](images, self.eps)

    def to_dict(self) -> dict[str, str | float]:
        """The norm and the radius, as written into results."""
        return {'norm': self.norm, 'eps': self.eps}

    def __repr__(self) -> str:
        size = f'{self.eps * 255:g}/255'
        return f'{type(self).__name__}(norm={self.norm!r}, eps={size!r})'


class Ball(ABC):
    """The allowed images around a batch: start, step and project in a norm.

    Results are inside exactly, in the images' own precision and in double.
    """

    order: float

    def __init__(self, images: Tensor, eps: float) -> None:
        self.images = images
        self.eps = eps

    @abstractmethod
    def random_start(self, generator: torch.Generator | None = None) -> Tensor:
        """Allowed images, uniform in the ball, on the images' device."""

    @abstractmethod
    def step(self, images: Tensor, gradient: Tensor, size: float) -> Tensor:
        """Move by ``size`` up the gradient, steepest in the norm; project."""

    @abstractmethod
    def project(self, adversarial: Tensor) -> Tensor:
        """Go to the nearest point of the ball, then to that of the box."""

    def distance(self, adversarial: Tensor) -> Tensor:
        """Distance from the clean images, in double precision, shape (N, )."""
        change = adversarial.double() - self.images.double()
        return _length(change, self.order).flatten()

    def contains(self, adversarial: Tensor) -> Tensor:
        """Whether each image is inside ball and box, exactly, shape (N, )."""
        flat = adversarial.flatten(1)
        in_box = (flat >= 0).all(1) & (flat <= 1).all(1)
        return in_box & (self.distance(adversarial) <= self.eps)


class _LinfBall(Ball):
    order = math.inf

    def __init__(self, images: Tensor, eps: float) -> None:
        super().__init__(images, eps)
        # A bound rounded away from the image would be outside by one unit in
        # the last place, so radius and bounds are rounded towards it.
        radius = images.new_full((), eps, dtype=torch.float64)
        radius = _round_towards(radius, images.new_zeros(())).double()
        self.lower = _bound(images, -radius)
        self.upper = _bound(images, radius)

    def random_start(self, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.empty_like(self.images)
        noise.uniform_(-self.eps, self.eps, generator=generator)
        return self.project(noise.add_(self.images))

    def step(self, images: Tensor, gradient: Tensor, size: float) -> Tensor:
        # In place on the signs: one tensor is allocated, not five.
        moved = gradient.sign().mul_(size).add_(images)
        return torch.clamp(moved, self.lower, self.upper, out=moved)

    def project(self, adversarial: Tensor) -> Tensor:
        return torch.clamp(adversarial, self.lower, self.upper)


class _L2Ball(Ball):
    order = 2.0

    def random_start(self, generator: torch.Generator | None = None) -> Tensor:
        images = self.images
        direction = torch.empty_like(images).normal_(generator=generator)
        # In d dimensions the share of the ball within radius r is r^d.
        share = images.new_empty(len(images)).uniform_(generator=generator)
        radius = self.eps * share.pow_(1 / images[0].numel())
        moved = images + radius.view(-1, 1, 1, 1) * unit_direction(direction)
        return self.project(moved)

    def step(self, images: Tensor, gradient: Tensor, size: float) -> Tensor:
        return self.project(images + size * unit_direction(gradient))

    def project(self, adversarial: Tensor) -> Tensor:
        # A margin to the sphere covers all rounding, so that the host need
        # not wait for a GPU to look at the result.
        limits = torch.finfo(adversarial.dtype)
        change = adversarial - self.images
        length = _length(change)
        # A distance that is summed up in the images' own precision may come
        # out longer than it is; half precision is summed up in float32.
        units = 4 if limits.bits == 16 else 64
        allowed = self.eps * (1 - units * limits.eps)
        # Storing a pixel in [0, 1] moves it by a quarter of a unit at most.
        rounding = math.sqrt(change[0].numel()) * limits.eps / 4
        radius = max(0.0, allowed * (1 - 4 * limits.eps) - rounding)
        factor = (radius / length.clamp(min=limits.tiny)).to(change.dtype)
        scaled = self.images + change * factor
        outside = length > allowed
        return torch.where(outside, scaled, adversarial).clamp_(0, 1)


def _length(
    change: Tensor, order: float = 2, dtype: torch.dtype = torch.float64
) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(
        change, order, (1, 2, 3), keepdim=True, dtype=dtype
    )
    return length


_BALLS: dict[str, type[Ball]] = {'linf': _LinfBall, 'l2': _L2Ball}


def _bound(images: Tensor, radius: Tensor) -> Tensor:
    """The farthest allowed images in the direction of a signed radius."""
    exact = images.double()
    bound = exact + radius
    # Double precision rounds the sum itself, maybe away from the images.
    outside = (bound - exact).abs() > radius.abs()
    bound = torch.where(outside, torch.nextafter(bound, exact), bound)
    return _round_towards(bound.clamp_(0, 1), images)


def _round_towards(exact: Tensor, goal: Tensor) -> Tensor:
    """``exact`` (double) in ``goal``'s dtype, never farther from ``goal``."""
    rounded, centre = exact.to(goal), goal.double()
    farther = (rounded.double() - centre).abs() > (exact - centre).abs()
    return torch.where(farther, torch.nextafter(rounded, goal), rounded)


def unit_direction(direction: Tensor) -> Tensor:
    """Each image's direction at length 1; a zero one stays zero."""
    # Squares of small numbers underflow: a confident model's gradient would
    # seem shorter than it is. So its largest value is made 1 first.
    largest = direction.abs().amax((1, 2, 3), keepdim=True)
    direction = direction / torch.where(largest > 0, largest, 1)
    length = _length(direction, dtype=direction.dtype)
    return direction / length.clamp(min=1)
