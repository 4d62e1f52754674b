"""Images in memory as a dataset, models with masked gradients, outcomes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from m2at_mm.attacks import ThreatModel
from m2at_mm.evaluation import Outcomes, Samples


def samples_of(
    images: Tensor, labels: Tensor, num_samples: int | None = None
) -> Samples:
    """Images in [0, 1] as a dataset whose preprocessor changes nothing."""

    def collate(items: list) -> dict:
        inputs, truth = zip(*items)
        samples = [DataSample().set_gt_label(int(label)) for label in truth]
        return dict(inputs=torch.stack(inputs), data_samples=samples)

    dataset = list(zip(images, labels))
    return Samples(dataset, lambda data, _: data, collate, num_samples)


N = 1000


def nested_outcome(eps: str = '8/255', **percents: float) -> Outcomes:
    """Accuracies on 1000 images: what a stronger attack leaves, others do."""
    labels, order = np.arange(N) % 10, np.arange(N)
    left = {name: order < 10 * share for name, share in percents.items()}
    predictions = {name: np.where(left[name], labels, 10) for name in left}
    threat = ThreatModel('linf', eps)
    return Outcomes(threat, labels, predictions, num_classes=10)


class _Backward(torch.autograd.Function):
    """The identity, with another gradient."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, change: Callable) -> Tensor:
        ctx.change = change
        return images.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return ctx.change(gradient), None


def _part(gradient: Tensor) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return gradient * (torch.rand(gradient.shape, generator=draw) < 0.3)


def _noise_with_gradients(images: Tensor) -> Tensor:
    noisy = torch.is_grad_enabled() and images.requires_grad
    return images + 0.1 * torch.randn_like(images) if noisy else images


_INPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    'quantised input': lambda x: (x * 32).round() / 32,
    'random input': lambda x: x + 0.05 * torch.randn_like(x),
    'step without gradient': lambda x: _Backward.apply(x, torch.zeros_like),
    'reversed gradient': lambda x: _Backward.apply(x, torch.neg),
    'part of the gradient': lambda x: _Backward.apply(x, _part),
    'broken gradient': lambda x: _Backward.apply(x, lambda g: g * torch.nan),
    'noise with gradients': _noise_with_gradients,
    'integer input': lambda x: (x * 255).to(torch.uint8).float() / 255,
    'mean of the batch': lambda x: x - x.mean(0) + 0.5,
}
_OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    'large logits': lambda logits: logits * 1e4,
    'saturating output': lambda logits: (100 * logits).softmax(1),
}
#: The alarm that must tell of each mask.
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
    'mean of the batch': 'outputs_depend_on_the_batch',
}


class Masked(nn.Module):
    """A sound model behind something of :data:`MASKS` that hides gradients."""

    def __init__(self, model: nn.Module, how: str) -> None:
        super().__init__()
        self.model = model
        self.how = how

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(_INPUTS.get(self.how, lambda x: x)(images))
        return _OUTPUTS.get(self.how, lambda x: x)(logits)
