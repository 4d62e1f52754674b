"""Measures on a few images whether gradients can be trusted."""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor, nn

from m2at_mm.attacks import ThreatModel, attack_mode, cross_entropy, pgd
from m2at_mm.attacks.losses import AttackLoss, margin

#: Images that are probed, at most.
NUM_PROBED = 128
# The radius at which every model must fall (arXiv 1902.06705, section 4.2),
# and how many times the evaluated one it is at least.
_LARGE_EPS = 64 / 255
_LARGE_FACTOR = 4


def probe(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat_model: ThreatModel,
    seed: int = 0,
) -> dict[str, Any]:
    """Figures that :func:`m2at_mm.evaluation.find_alarms` judges.

    Args:
        model (nn.Module): Maps images in [0, 1], shape (N, C, H, W), to
            logits of shape (N, K), in eval mode.
        images (Tensor): Correctly classified images, shape (N, C, H, W).
        labels (Tensor): Their labels, shape (N, ).
        threat_model (ThreatModel): What is evaluated.
        seed (int): Of the random starts. Defaults to 0.

    Returns:
        dict: ``num_images``, ``num_classes``;
        ``pass_difference`` and ``batch_difference``, the largest change of an
        image's logits, relative to their length, from one forward pass to the
        next and from a full to a halved batch;
        ``probabilities``, whether the outputs are probabilities;
        ``differentiable``, whether there is a gradient at all;
        ``vanishing_gradients``, the share of images where the gradient of the
        margin predicts that not even 1000 times the radius reaches the
        decision boundary; ``gradient_agreement``, the median ratio of finite
        differences to the other images' gradients, 1 if these are right;
        ``saturated_loss``, the share where the
        cross-entropy is exactly 0 in float32; ``median_margin`` of the logits;
        ``large_eps`` and ``large_eps_correct``, the number of images that
        withstand PGD-20 on both losses at that radius.
    """
    cuda = [images.device] if images.is_cuda else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        figures = _probe_outputs(model, images, labels)
        model = differentiable(model, figures)
        figures.update(_probe_gradients(model, images, labels, threat_model))
        figures.update(_probe_large_eps(model, images, labels, threat_model))
    return figures


def differentiable(model: nn.Module, figures: dict[str, Any]) -> nn.Module:
    """The model, made to have a zero gradient where it has none.

    An attack on a model that detaches its input, like one that rounds to
    integers, would end in an error of autograd. With a zero gradient it runs,
    fails, and the alarm tells why.
    """
    return model if figures.get('differentiable', True) else _ZeroGrad(model)


class _ZeroGrad(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) + 0 * images.sum()


@torch.no_grad()
def _probe_outputs(
    model: nn.Module, images: Tensor, labels: Tensor
) -> dict[str, Any]:
    first, second = model(images).float(), model(images).float()
    half = max(1, len(images) // 2)
    halves = torch.cat(
        [model(part) for part in (images[:half], images[half:]) if len(part)]
    )
    with attack_mode(model):
        graph = model(images[:1].clone().requires_grad_(True)).requires_grad
    return dict(
        num_images=len(images),
        num_classes=first.shape[1],
        pass_difference=_largest_difference(first, second),
        batch_difference=_largest_difference(first, halves.float()),
        probabilities=bool(
            (first >= 0).all() and ((first.sum(1) - 1).abs() < 1e-4).all()
        ),
        differentiable=graph,
        saturated_loss=_share(cross_entropy(first, labels) == 0),
        median_margin=float(-margin(first, labels).median()),
    )


def _largest_difference(first: Tensor, second: Tensor) -> float:
    length = first.norm(dim=1).clamp(min=1e-30)
    return float(((first - second).norm(dim=1) / length).max())


def _share(flags: Tensor) -> float:
    return float(flags.float().mean())


def _probe_gradients(
    model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> dict[str, Any]:
    with attack_mode(model):
        distance, gradient = _margin_gradient(model, margin, images, labels)
    flat = gradient.flatten(1)
    # The most that a change of length eps can do to first order: eps times
    # the dual norm of the gradient.
    slope = flat.abs().sum(1) if threat.norm == 'linf' else flat.norm(dim=1)
    eps = max(threat.eps, 8 / 255)
    vanishing = (slope * eps * 1000 < distance) | (slope == 0)
    figures: dict[str, Any] = dict(vanishing_gradients=_share(vanishing))
    kept = ~vanishing
    if bool(kept.any()):
        figures['gradient_agreement'] = _compare_with_differences(
            model, images[kept], labels[kept], gradient[kept]
        )
    return figures


@torch.no_grad()
def _compare_with_differences(
    model: nn.Module, images: Tensor, labels: Tensor, gradient: Tensor
) -> float:
    """Median ratio of the margin's slope along its gradient to the gradient.

    The slope is a central difference over a thousandth of the pixel range.
    """
    length = gradient.flatten(1).norm(dim=1)
    reach = 1e-3 * images[0].numel() ** 0.5
    step = (reach * gradient / length.view(-1, 1, 1, 1)).to(images)
    ahead = margin(model(images + step).double(), labels)
    behind = margin(model(images - step).double(), labels)
    return float(((ahead - behind) / (2 * reach * length)).median())


def _margin_gradient(
    model: Callable[[Tensor], Tensor],
    loss: AttackLoss,
    images: Tensor,
    labels: Tensor,
) -> tuple[Tensor, Tensor]:
    images = images.clone().requires_grad_(True)
    losses = loss(model(images).float(), labels)
    (gradient,) = torch.autograd.grad(losses.sum(), images)
    return -losses.detach().double(), gradient.double()


def _probe_large_eps(
    model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> dict[str, Any]:
    eps = min(1.0, max(_LARGE_EPS, _LARGE_FACTOR * threat.eps))
    if threat.norm == 'l2':
        # As long as the corner of the linf ball, to reach as far.
        eps = max(
            _LARGE_EPS * images[0].numel() ** 0.5, _LARGE_FACTOR * threat.eps
        )
    large = ThreatModel(threat.norm, f'{eps * 255!r}/255')
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
            correct &= model(adversarial).argmax(1) == labels
    return dict(large_eps=large.eps, large_eps_correct=int(correct.sum()))
