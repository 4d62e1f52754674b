import copy
import shutil
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from tiny import (
    build_adversarial,
    classifier_cfg,
    needs_torch_that_compiles,
    raw_batch,
)
from torch import Tensor, nn

from m2at_mm.attacks import FGSM, PGD, AutoAttack, ThreatModel, logits


class Squeezing(nn.Module):
    """Drops the batch of one image, as mmpretrain's LeNet-5 does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 5)
        # The brightest channel is the class.
        self.linear.weight.data = 20 * torch.eye(5, 3)
        self.linear.bias.data.zero_()

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.mean((2, 3)).squeeze())


@pytest.mark.parametrize('num', [1, 2, 5])
def test_a_squeezed_batch_is_a_batch_again(num: int) -> None:
    model, images = Squeezing(), torch.rand(num, 3, 4, 4)
    expected = images.mean((2, 3)) @ model.linear.weight.T + model.linear.bias
    torch.testing.assert_close(logits.logits_of(model, images), expected)


@pytest.mark.parametrize(
    'attack', [PGD(steps=3, restarts=2), FGSM(), AutoAttack(['apgd-ce'])]
)
def test_one_image_is_attacked_as_among_others(attack: PGD) -> None:
    """Also where the others are fooled already and leave the batch."""
    model, images = Squeezing(), torch.rand(3, 3, 4, 4)
    labels = model(images).argmax(1)
    labels[1:] = (labels[1:] + 1) % 5
    for part in (slice(1), slice(3)):
        batch = images[part], labels[part], ThreatModel('linf', 0.4)
        adversarial = attack(model, *batch, stop_when_fooled=True)
        attacked = model(torch.cat([adversarial, images]))
        assert attacked[0].argmax() != labels[0]


NAN, INF = torch.nan, torch.inf


def test_what_is_not_finite_predicts_nothing() -> None:
    rows = [[0.0, 2, 1], [NAN, 2, 1], [0, NAN, 1], [INF, 2, 1], [0, 2, -INF]]
    found = logits.predicted_labels(torch.tensor([*rows, [3, 1, 2]]))
    assert found.tolist() == [1, *[logits.NO_LABEL] * 4, 0]


@pytest.mark.parametrize('kind', ['double', 'float', 'half', 'bfloat16'])
def test_images_in_the_precision_of_the_parameters(kind: str) -> None:
    model = nn.Sequential(nn.Identity(), nn.Conv2d(1, 1, 1))
    images = torch.rand(1, 1, 2, 2)
    found = logits.at_entrance(getattr(model, kind)(), images)
    assert found.dtype == getattr(images, kind)().dtype
    assert logits.at_entrance(nn.Identity(), images) is images


COUNTERS = torch._dynamo.utils.counters


@pytest.fixture
def tracing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Dynamo and autograd as they are, without the slow code generation."""
    short = partial(torch.compile, backend='aot_eager')
    monkeypatch.setattr(torch, 'compile', lambda call, mode: short(call))
    torch._dynamo.reset()
    COUNTERS.clear()
    logits._compiled_call.cache_clear()
    yield
    logits._compiled_call.cache_clear()


def _attack(model: Any, mode: Any, seed: int = 0) -> Tensor:
    images = torch.rand(4, 3, 32, 32, generator=torch.manual_seed(seed))
    attack = PGD(steps=3, compile_mode=mode)
    return attack(model, images, torch.arange(4), model.threat_model)


@needs_torch_that_compiles
def test_compiled_once_for_changing_weights(tracing: None) -> None:
    model = build_adversarial().train()
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    model.train_attack.compile_mode = 'default'
    graphs = []
    for step in range(3):
        model.train_step(raw_batch(num=4, seed=step), optimizer)
        eager, found = (_attack(model, m, step) for m in (None, 'default'))
        assert (eager != found).float().mean() < 0.01
        graphs.append(COUNTERS['stats']['unique_graphs'])
    assert len({*graphs}) == 1 and graphs[0] > 0


def test_nothing_stays_on_the_model_nor_on_a_copy(tracing: None) -> None:
    model = build_adversarial().train()
    kept = dict(model.__dict__), list(model.state_dict())
    before = _attack(model, 'default')
    assert (dict(model.__dict__), list(model.state_dict())) == kept
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        nn.init.normal_(parameter, std=0.1)
    found = _attack(other, 'default')
    assert (found != _attack(other, None)).float().mean() < 0.01
    assert (found != before).float().mean() > 0.3
    assert torch.equal(_attack(model, 'default'), before)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which('g++') is None, reason='no C++ compiler')
def test_generated_code_gives_the_eager_images() -> None:
    torch._dynamo.reset()
    # PyTorch 2.14 crashes on the CPU where layers are narrower.
    classifier = classifier_cfg(base_channels=16, stem_channels=16)
    model = build_adversarial(classifier=classifier)
    eager, found = (_attack(model, mode) for mode in (None, 'default'))
    assert (eager != found).float().mean() < 0.01
