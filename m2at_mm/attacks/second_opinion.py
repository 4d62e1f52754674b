"""A short attack that trusts no single gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor

from m2at_mm.attacks.base import Attack, Batch
from m2at_mm.attacks.losses import margin
from m2at_mm.attacks.threat_model import unit_direction
from m2at_mm.checks import check_count
from m2at_mm.registry import TASK_UTILS


@TASK_UTILS.register_module()
@dataclass(eq=False)
class SecondOpinion(Attack):
    """Looks for what attacks along the local gradient miss.

    Each step follows the sum of the margin's unit gradients at noisy points
    so far: what is only local, like a ripple on the logits, averages out (as
    in SmoothGrad, arXiv 1706.03825). The outcome is also tried on the grid of
    8-bit values, and the opposite direction as well. Then squares at random
    places change by as much as is allowed, and stay where the margin rises
    (as in Square, arXiv 1912.00049).

    It makes ``gradients`` steps and tries ``queries`` squares, at least 1 of
    each.
    """

    gradients: int = 5
    queries: int = 6
    loss = 'margin'

    def __post_init__(self) -> None:
        check_count('gradients', self.gradients)
        check_count('queries', self.queries)

    def perturb(self, batch: Batch) -> Tensor:
        """See :class:`Attack`."""
        ball, eps = batch.ball, batch.threat_model.eps
        best = _Best(batch)
        with batch.attack_mode('eval', True, passes=0):
            images, total = batch.images, torch.zeros_like(batch.images)
            for _ in range(self.gradients):
                noise = ball.random_start() - batch.images
                noisy = ball.project(images + noise / 2)
                logits, gradient = batch.gradient(margin, noisy)
                best.take(noisy, logits)
                gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
                total += unit_direction(gradient)
                images = ball.step(images, total, eps / 2)
            best.offer(images)
            best.offer(ball.project((images * 255).round() / 255))
            best.offer(ball.step(batch.images, -total, 2 * eps))
            for query in range(self.queries):
                share = 0.5 * 0.8**query
                best.offer(ball.project(_with_square(best.images, share, eps)))
        return best.images


class _Best:
    """The images of the highest margin so far."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.images = batch.images.clone()
        self.margin = batch.images.new_full((len(batch.images),), -torch.inf)

    def take(self, images: Tensor, logits: Tensor) -> None:
        found = margin(logits, self.batch.labels)
        higher = found > self.margin
        self.margin = torch.where(higher, found, self.margin)
        higher = higher.view(-1, 1, 1, 1)
        self.images = torch.where(higher, images, self.images)

    @torch.no_grad()
    def offer(self, images: Tensor) -> None:
        self.take(images, self.batch.logits(images))


def _with_square(images: Tensor, share: float, eps: float) -> Tensor:
    """Change a square at a random place, one sign per channel, by 2 eps."""
    num, channels, height, width = images.shape
    side = max(1, round(share * min(height, width)))
    device = images.device

    def inside(length: int) -> Tensor:
        start = torch.randint(length - side + 1, (num, 1), device=device)
        place = torch.arange(length, device=device) - start
        return (place >= 0) & (place < side)

    square = inside(height).unsqueeze(2) & inside(width).unsqueeze(1)
    sign = torch.randint(2, (num, channels, 1, 1), device=device) * 2 - 1
    return images + 2 * eps * sign * square.unsqueeze(1)
