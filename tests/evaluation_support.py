"""Images in memory as a dataset, and models with masked gradients."""

from __future__ import annotations

from typing import Any

import torch
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from m2at_mm.evaluation import Samples


def samples_of(
    images: Tensor, labels: Tensor, num_samples: int | None = None
) -> Samples:
    """Images in [0, 1] as a dataset whose preprocessor changes nothing."""

    def collate(items: list) -> dict:
        inputs, truth = zip(*items)
        samples = [DataSample().set_gt_label(int(label)) for label in truth]
        return dict(inputs=torch.stack(inputs), data_samples=samples)

    return Samples(
        list(zip(images, labels)),
        lambda data, training: data,
        collate,
        num_samples,
    )


class _ReversedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class _PartialGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        kept = torch.rand(gradient.shape, generator=generator) < 0.3
        return gradient * kept


class _BrokenGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * torch.nan


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.zeros_like(gradient)


class Masked(nn.Module):
    """A sound model behind something that hides its gradients.

    Args:
        model (nn.Module): From images in [0, 1] to logits.
        how (str): Of :data:`MASKS`.
    """

    def __init__(self, model: nn.Module, how: str) -> None:
        super().__init__()
        self.model = model
        self.how = how

    def forward(self, images: Tensor) -> Tensor:
        if self.how == 'quantised input':
            images = (images * 32).round() / 32
        elif self.how == 'random input':
            images = images + 0.05 * torch.randn_like(images)
        elif self.how == 'step without gradient':
            images = _NoGradient.apply(images)
        elif self.how == 'noise with gradients':
            if torch.is_grad_enabled() and images.requires_grad:
                images = images + 0.1 * torch.randn_like(images)
        elif self.how == 'part of the gradient':
            images = _PartialGradient.apply(images)
        elif self.how == 'broken gradient':
            images = _BrokenGradient.apply(images)
        elif self.how == 'reversed gradient':
            images = _ReversedGradient.apply(images)
        elif self.how == 'integer input':
            images = (images * 255).to(torch.uint8).float() / 255
        logits = self.model(images)
        if self.how == 'large logits':
            return logits * 1e4
        if self.how == 'saturating output':
            return (100 * logits).softmax(1)
        return logits


#: The alarm that must tell of each.
MASKS = {
    'quantised input': 'vanishing_gradients',
    'large logits': 'saturated_loss',
    'random input': 'randomised_outputs',
    'saturating output': 'vanishing_gradients',
    'step without gradient': 'vanishing_gradients',
    'reversed gradient': 'wrong_gradients',
    'part of the gradient': 'wrong_gradients',
    'broken gradient': 'non_finite_gradients',
    'noise with gradients': 'randomised_outputs',
    'integer input': 'vanishing_gradients',
}
