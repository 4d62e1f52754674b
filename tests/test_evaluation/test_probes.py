from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from evaluation_support import MASKS, Masked
from torch import nn

from m2at_mm.attacks import ThreatModel
from m2at_mm.evaluation import find_alarms
from m2at_mm.evaluation.attackable import Attackable
from m2at_mm.evaluation.probes import probe


def _right(
    model: nn.Module, cifar10_images: Callable, num: int
) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = cifar10_images(num)
    with torch.no_grad():
        right = model(images).argmax(1) == labels
    return images[right], labels[right]


@pytest.mark.parametrize('how', MASKS)
def test_masked_gradients_raise_their_alarm(
    robust_model: nn.Module, cifar10_images: Callable, how: str
) -> None:
    torch.manual_seed(0)
    images, labels = _right(robust_model, cifar10_images, 24)
    figures = probe(Masked(robust_model, how), images, labels, ThreatModel())
    assert MASKS[how] in [alarm.name for alarm in find_alarms([], figures)]


@pytest.mark.parametrize('norm', ['linf', 'l2'])
@pytest.mark.parametrize('eps', ['0.5/255', '8/255'])
def test_sound_models_raise_none(
    robust_model: nn.Module,
    undefended_model: nn.Module,
    cifar10_images: Callable,
    norm: str,
    eps: str,
) -> None:
    for model, num in ((robust_model, 40), (undefended_model, 12)):
        images, labels = _right(model, cifar10_images, num)
        figures = probe(model, images, labels, ThreatModel(norm, eps))
        assert find_alarms([], figures) == []
        assert figures['large_eps_correct'] == 0
        assert figures['num_images'] == len(images)
        assert figures['gradient_agreement'] == pytest.approx(1, abs=0.2)
        assert figures['gradient_correlation'] > 0.9


def test_figures_of_a_linear_model() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([torch.ones(12), torch.zeros(12)]))
        model[1].bias.copy_(torch.tensor([-0.5, 0]))
    images = torch.full((4, 3, 2, 2), 0.5)
    labels = torch.zeros(4, dtype=torch.long)
    figures = probe(model, images, labels, ThreatModel())
    assert figures['median_margin'] == pytest.approx(5.5)
    assert figures['num_classes'] == 2
    assert figures['pass_difference'] == 0
    assert figures['large_eps'] == pytest.approx(64 / 255)
    # The margin shrinks by 12 times 64/255, to 2.5: this model is robust.
    assert figures['large_eps_correct'] == 4
    # At 255/255 the box alone ends it.
    large = probe(model, images, labels, ThreatModel('linf', '100/255'))
    assert large['large_eps'] == 1
    assert large['large_eps_correct'] == 0


def test_output_that_depends_on_the_batch(
    robust_model: nn.Module, cifar10_images: Callable
) -> None:
    images, labels = cifar10_images(8)

    class BatchNorm(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return robust_model(x - x.mean(0) + 0.5)

    figures = probe(BatchNorm(), images, labels, ThreatModel())
    assert figures['pass_difference'] == 0
    names = [alarm.name for alarm in find_alarms([], figures)]
    assert 'outputs_depend_on_the_batch' in names


def test_small_batches_give_the_same_figures(
    robust_model: nn.Module, cifar10_images: Callable
) -> None:
    images, labels = _right(robust_model, cifar10_images, 24)
    whole = probe(robust_model, images, labels, ThreatModel())
    parts = probe(robust_model, images, labels, ThreatModel(), batch_size=4)
    for name in ('num_images', 'vanishing_gradients', 'large_eps_correct'):
        assert parts[name] == whole[name]
    for name in ('gradient_correlation', 'gradient_agreement'):
        assert parts[name] == pytest.approx(whole[name], abs=0.05)


def test_batch_that_does_not_fit_is_halved(
    robust_model: nn.Module, cifar10_images: Callable
) -> None:
    class Small(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 4:
                raise torch.cuda.OutOfMemoryError('CUDA out of memory')
            return robust_model(x)

    images, labels = _right(robust_model, cifar10_images, 24)
    assert probe(Small(), images, labels, ThreatModel())['num_images'] == len(
        images
    )


@pytest.mark.parametrize('how', ['integer input', 'broken gradient'])
def test_attackable_gives_a_zero_gradient(
    robust_model: nn.Module, how: str
) -> None:
    masked = Masked(robust_model, how)
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    logits = Attackable(masked)(images)
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    assert gradient.abs().max() == 0
    assert torch.equal(logits, masked(images))
