"""What a process keeps beside the weights, and averaged weights."""

import copy
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits_runner import build_runner, quick_cfg, same, small_digits_config
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from tiny import RECIPES, build_adversarial, raw_batch

from m2at_mm.runner import process_state as module
from m2at_mm.runner.process_state import process_state, set_process_state
from m2at_mm.runner.rollback import roll_back


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
def test_statistics_of_each_process(processes: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, 'get_world_size', lambda: processes)
    model = torch.nn.BatchNorm2d(2)
    model.running_mean.fill_(3.0)
    state = through_a_file(process_state(model))
    model.running_mean.zero_()
    set_process_state(model, state)
    assert model.running_mean[0] == (0.0 if processes == 1 else 3.0)


def test_statistics_of_averages(monkeypatch: Any) -> None:
    """Also where the average has come or gone since."""
    monkeypatch.setattr(module, 'get_world_size', lambda: 2)
    model, average = torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2)
    both = (model.running_mean, average.running_mean)
    for saved, now, expected in (
        ([average], [average], [3.0, 5.0]),
        ([average], [], [3.0, 0.0]),
        ([], [average], [3.0, 0.0]),
    ):
        model.running_mean.fill_(3.0)
        average.running_mean.fill_(5.0)
        state = through_a_file(process_state(model, *saved))
        for mean in both:
            mean.zero_()
        set_process_state(model, state, *now)
        assert [mean[0].item() for mean in both] == expected


def test_another_methods_state_is_refused() -> None:
    model = build_adversarial()
    state = process_state(model) | dict(method=dict(a=torch.zeros(1)))
    with pytest.raises(ValueError, match='M2AT keeps nothing'):
        set_process_state(model, state)


def _weights_and_averages(runner: Any) -> dict[str, Any]:
    (ema,) = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
    found = dict(weights=runner.model, average=ema.ema_model)
    found = {name: module.state_dict() for name, module in found.items()}
    momentum = runner.optim_wrapper.state_dict()['state']
    return copy.deepcopy(dict(found, momentum=momentum))


@pytest.mark.parametrize('resumed', [False, True])
def test_schedule_and_streams_go_on(resumed: bool, tmp_path: Path) -> None:
    runner = build_runner(tmp_path, 'epochs', randomness=dict(seed=0))
    runner._resume = resumed
    runner.train()
    assert runner._resume == resumed
    path = str(tmp_path / 'epoch_2.pth')
    group = runner.optim_wrapper.param_groups[0]
    group['lr'] = 0.125
    weight = runner.model.head.fc.weight
    weight.grad = torch.ones_like(weight)
    streams = torch.get_rng_state()
    last = _weights_and_averages(runner)
    roll_back(runner, path)
    assert runner._resume == resumed
    assert torch.equal(torch.get_rng_state(), streams)
    assert runner.optim_wrapper.param_groups[0]['lr'] == 0.125
    assert all(p.grad is None for p in runner.model.parameters())
    assert runner.epoch == 3

    # The weights in training are under 'module.' in the average's state.
    saved = torch.load(path, weights_only=True)
    found = _weights_and_averages(runner)
    with pytest.raises(AssertionError):
        same(found['weights'], last['weights'])
    for name, value in found['weights'].items():
        assert torch.equal(value, saved['ema_state_dict'][f'module.{name}'])
        average = found['average'][f'module.{name}']
        assert torch.equal(average, saved['state_dict'][name])
    same(found['momentum'], saved['optimizer']['state'])


EMA = dict(type='EMAHook', update_buffers=True)
SWA = dict(EMA, ema_type='StochasticWeightAverage')
OURS = dict(type='m2at_mm.AveragedWeightsHook')
AVERAGES = dict(ema=dict(EMA, momentum=0.3), ours=OURS, swa=SWA)
OPTIMISERS = ['OptimWrapper', 'm2at_mm.AWPOptimWrapper']


def _averaging(folder: Path, average: dict, wrapper: str) -> Config:
    cfg = small_digits_config(folder, 50, 32, network=quick_cfg)
    # Deterministic, so that it can be computed again.
    cfg.model.train_attack = dict(type='m2at_mm.FGSM')
    cfg.model.eval_attacks = dict(pgd10=dict(type='m2at_mm.FGSM'))
    cfg.train_dataloader.dataset.indices = 128
    cfg.train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
    cfg.optim_wrapper.type = wrapper
    cfg.default_hooks.ema = average
    cfg.randomness = dict(seed=0)
    return cfg


@pytest.mark.parametrize('kind', AVERAGES)
@pytest.mark.parametrize('wrapper', OPTIMISERS)
def test_average_is_validated(kind: str, wrapper: str, tmp_path: Path) -> None:
    cfg = _averaging(tmp_path, AVERAGES[kind], wrapper)
    runner = Runner.from_cfg(cfg)
    logged: list[dict[str, Any]] = []
    run = runner.val_loop.run
    runner.val_loop.run = lambda: logged.append(run())
    runner.train()
    path = (tmp_path / 'last_checkpoint').read_text()
    saved = torch.load(path, weights_only=True)
    average, trained = saved['state_dict'], saved['ema_state_dict']
    name = next(key for key in average if key.endswith('fc.weight'))
    inner = next(key for key in trained if key.endswith('fc.weight'))
    assert not torch.equal(average[name], trained[inner])
    # Once more, of these weights and without any hook.
    cfg = _averaging(tmp_path / 'again', AVERAGES[kind], wrapper)
    del cfg.default_hooks.ema
    other = Runner.from_cfg(cfg)
    other.model.load_state_dict(average)
    found = other.val()
    for figure in ('robust/clean', 'robust/pgd10'):
        assert logged[-1][figure] == pytest.approx(found[figure])
