"""The loss around an image, in two directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from m2at_mm.attacks import ThreatModel, attack_mode, cross_entropy, margin


@dataclass(frozen=True)
class LossSurface:
    """The loss on a grid around an image.

    Attributes:
        steps (np.ndarray): Positions on both axes in units of the radius,
            from -1 to 1, shape (P, ).
        loss (np.ndarray): Cross-entropy, shape (P, P): a row per step in the
            random direction, a column per step along the gradient.
        margin (np.ndarray): Best wrong logit minus the right one, same
            shape: above 0 the image is misclassified.
    """

    steps: np.ndarray
    loss: np.ndarray
    margin: np.ndarray


def loss_surfaces(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat_model: ThreatModel,
    points: int = 21,
    seed: int = 0,
) -> list[LossSurface]:
    """Loss and margin along the gradient and a random direction.

    A smooth slope towards the gradient is what an attack can follow; a jagged
    or flat one is a sign of masked gradients (arXiv 1902.06705, section 4).
    Either direction ends where ball and box end.

    Args:
        model (nn.Module): Maps images in [0, 1], shape (N, C, H, W), to
            logits of shape (N, K), in eval mode.
        images (Tensor): RGB in [0, 1], shape (N, C, H, W).
        labels (Tensor): int64, shape (N, ).
        threat_model (ThreatModel): Norm and radius.
        points (int): Points on each axis, odd so that the image itself is
            one. Defaults to 21.
        seed (int): Of the random directions. Defaults to 0.

    Returns:
        list[LossSurface]: One per image.
    """
    with attack_mode(model):
        leaf = images.clone().requires_grad_(True)
        total = cross_entropy(model(leaf).float(), labels).sum()
        (gradient,) = torch.autograd.grad(total, leaf)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(images.shape, generator=generator).to(images)
    ball, eps = threat_model.ball(images), threat_model.eps
    along = ball.step(images, gradient, eps) - images
    across = ball.step(images, noise, eps) - images
    steps = torch.linspace(-1, 1, points).to(images)
    return [
        _surface(model, image, label, directions, steps)
        for image, label, directions in zip(images, labels, zip(along, across))
    ]


@torch.no_grad()
def _surface(
    model: nn.Module,
    image: Tensor,
    label: Tensor,
    directions: tuple[Tensor, Tensor],
    steps: Tensor,
) -> LossSurface:
    along, across = directions
    truth = label.expand(len(steps))
    losses, margins = [], []
    for step in steps:
        row = image + step * across + steps.view(-1, 1, 1, 1) * along
        logits = model(row.clamp(0, 1)).float()
        losses.append(cross_entropy(logits, truth))
        margins.append(margin(logits, truth))
    return LossSurface(
        steps=steps.cpu().numpy(),
        loss=torch.stack(losses).cpu().numpy(),
        margin=torch.stack(margins).cpu().numpy(),
    )
