import io
import random

import numpy as np
import pytest
import torch
from tiny import RECIPES, build_adversarial, raw_batch

from m2at_mm.runner import process_state as module
from m2at_mm.runner.process_state import process_state, set_process_state


def draws() -> list[float]:
    numbers = [random.random(), random.gauss(0, 1)]
    numbers += [np.random.rand(), np.random.randn()]
    return [*numbers, torch.rand(()).item()]


def through_a_file(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_streams_go_on() -> None:
    draws()  # a normal draw leaves a second one behind
    streams = through_a_file(module.random_streams())
    expected = draws()
    assert draws() != expected
    module.set_random_streams(streams)
    assert draws() == expected


def test_what_free_at_keeps_goes_on() -> None:
    def build(weights: dict | None = None) -> torch.nn.Module:
        model = build_adversarial(**RECIPES['FreeAT']).train()
        model.load_state_dict(weights or model.state_dict())
        return model

    def step(model: torch.nn.Module) -> torch.Tensor:
        data = model.data_preprocessor(raw_batch(), training=True)
        loss = model(**data, mode='loss')['loss']
        loss.backward()
        return loss.detach()

    first = build()
    step(first)
    state = through_a_file(process_state(first))
    assert state['method'].keys() == {'perturbation', 'gradient'}
    second, third = build(first.state_dict()), build(first.state_dict())
    set_process_state(second, state)
    expected = step(first)
    assert torch.equal(step(second), expected)
    assert not torch.equal(step(third), expected)


@pytest.mark.parametrize('processes', [1, 2])
def test_statistics_are_of_each_process(
    processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, 'get_world_size', lambda: processes)
    model = torch.nn.BatchNorm2d(2)
    model.running_mean.fill_(3.0)
    state = through_a_file(process_state(model))
    model.running_mean.zero_()
    set_process_state(model, state)
    assert model.running_mean[0] == (0.0 if processes == 1 else 3.0)


def test_another_methods_state_is_refused() -> None:
    model = build_adversarial()
    state = process_state(model) | dict(method=dict(a=torch.zeros(1)))
    with pytest.raises(ValueError, match='M2AT keeps nothing'):
        set_process_state(model, state)
