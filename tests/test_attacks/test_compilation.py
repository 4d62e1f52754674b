from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from tiny import build_adversarial, classifier_cfg, raw_batch
from torch import Tensor

from m2at_mm.attacks import PGD, compilation

COUNTERS = torch._dynamo.utils.counters


@pytest.fixture
def tracing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Dynamo and autograd as they are, without the slow code generation."""
    compile_ = torch.compile
    monkeypatch.setattr(
        torch,
        'compile',
        lambda call, mode: compile_(call, backend='aot_eager'),
    )
    torch._dynamo.reset()
    COUNTERS.clear()
    compilation._compiled_call.cache_clear()
    yield
    compilation._compiled_call.cache_clear()


def _attack(model: Any, mode: Any, seed: int = 0) -> Tensor:
    images = torch.rand(4, 3, 32, 32, generator=torch.manual_seed(seed))
    attack = PGD(steps=3, compile_mode=mode)
    return attack(model, images, torch.arange(4), model.threat_model)


def test_compiled_once_for_changing_weights(tracing: None) -> None:
    model = build_adversarial().train()
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    model.train_attack.compile_mode = 'default'
    for step in range(3):
        model.train_step(raw_batch(num=4, seed=step), optimizer)
        eager, found = (_attack(model, m, step) for m in (None, 'default'))
        assert (eager != found).float().mean() < 0.01
    assert COUNTERS['stats']['unique_graphs'] == 1
    assert not COUNTERS['graph_break']


def test_a_copy_has_its_own_weights(tracing: None) -> None:
    model = build_adversarial()
    before = _attack(model, 'default')
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    found = _attack(other, 'default')
    assert (found != _attack(other, None)).float().mean() < 0.01
    assert (found != before).float().mean() > 0.3
    assert torch.equal(_attack(model, 'default'), before)


def test_nothing_stays_on_the_model(tracing: None) -> None:
    model = build_adversarial().train()
    before = dict(model.__dict__), list(model.state_dict())
    _attack(model, 'default')
    assert (dict(model.__dict__), list(model.state_dict())) == before
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which('g++') is None, reason='no C++ compiler')
def test_generated_code_gives_the_eager_images() -> None:
    torch._dynamo.reset()
    # PyTorch 2.14 crashes on the CPU where layers are narrower.
    classifier = classifier_cfg(base_channels=16, stem_channels=16)
    model = build_adversarial(classifier=classifier)
    eager, found = (_attack(model, mode) for mode in (None, 'default'))
    assert (eager != found).float().mean() < 0.01
