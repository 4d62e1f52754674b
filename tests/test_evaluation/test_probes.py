import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from evaluation_support import MASKS, Masked
from planted_models import PLANTED
from torch import Tensor, nn

from m2at_mm.attacks import ThreatModel, margin
from m2at_mm.evaluation import find_alarms
from m2at_mm.evaluation.probes import probe


def names(figures: dict) -> list[str]:
    return [alarm.name for alarm in find_alarms([], figures)]


def _right(model: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    with torch.no_grad():
        correct = model(images).argmax(1) == labels
    return [images[correct], labels[correct]]


@pytest.fixture(scope='module')
def right(robust_model: nn.Module, cifar10_images: Callable) -> list:
    """Of 24 images those that the robust model classifies correctly."""
    return _right(robust_model, *cifar10_images(24))


@pytest.mark.parametrize('how', MASKS)
def test_masked_gradients(robust_model: Any, right: list, how: str) -> None:
    torch.manual_seed(0)
    figures = probe(Masked(robust_model, how), *right, ThreatModel())
    assert MASKS[how] in names(figures)


@pytest.mark.parametrize('name', PLANTED)
def test_planted_models(robust_model: Any, right: list, name: str) -> None:
    torch.manual_seed(0)
    model = PLANTED[name](robust_model)
    found = names(probe(model, *right, ThreatModel()))
    # Honest for so many queries, and where the margin is concerned.
    if name in ('counter 200', 'decoy for ce'):
        assert found == []
    elif name.startswith('cache'):
        assert 'answers_depend_on_earlier_queries' in found
    else:
        remembers = 'answers_depend_on_earlier_queries' in found
        assert remembers == name.startswith('counter')
        assert {'misleading_gradients', 'unchanged_outputs'} & {*found}


@pytest.mark.parametrize('shared', [True, False])
def test_memory_of_queries(robust_model: Any, right: Any, shared: Any) -> None:
    """A model whose logits change, for all images and for good."""

    class Tiring(nn.Module):
        calls = 0

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            logits = robust_model(images)
            return 0.9 * logits if self.calls > 200 else logits

    model = Tiring()
    fresh = copy.deepcopy(model)
    with torch.no_grad():
        margins = margin(model(right[0]), right[1])
    model.calls = 201
    # Copies may share a memory: then margins tell of it.
    given = dict(margins=margins, fresh=model) if shared else dict(fresh=fresh)
    figures = probe(model, *right, ThreatModel(), **given)
    assert names(figures) == ['answers_depend_on_earlier_queries']


@pytest.mark.parametrize('norm', ['linf', 'l2'])
@pytest.mark.parametrize('eps', ['0.5/255', '8/255'])
def test_sound_models_raise_none(
    request: Any, cifar10_images: Callable, norm: str, eps: str
) -> None:
    for name, num in (('robust_model', 40), ('undefended_model', 12)):
        model = request.getfixturevalue(name)
        right = _right(model, *cifar10_images(num))
        figures = probe(model, *right, ThreatModel(norm, eps))
        assert names(figures) == []
        assert figures['large_eps_correct'] == 0
        assert figures['num_images'] == len(right[0])
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


def test_figures_of_small_batches(robust_model: Any, right: list) -> None:
    class Small(nn.Module):  # its memory makes the batches small
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 4:
                raise torch.cuda.OutOfMemoryError('CUDA out of memory')
            return robust_model(x)

    whole = probe(robust_model, *right, ThreatModel())
    for parts in (
        probe(robust_model, *right, ThreatModel(), batch_size=4),
        probe(Small(), *right, ThreatModel()),
    ):
        for name in ('num_images', 'vanishing_gradients', 'large_eps_correct'):
            assert parts[name] == whole[name]
        for name in ('gradient_correlation', 'gradient_agreement'):
            assert parts[name] == pytest.approx(whole[name], abs=0.05)
