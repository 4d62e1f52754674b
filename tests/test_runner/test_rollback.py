"""A running training that goes back, with average weights and momentum."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted_runs import build_runner, same
from mmengine.hooks import EMAHook

from m2at_mm.runner.rollback import roll_back


def _state(runner: Any) -> dict[str, Any]:
    (ema,) = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
    found = dict(
        weights=runner.model.state_dict(),
        average=ema.ema_model.state_dict(),
        momentum=runner.optim_wrapper.state_dict()['state'],
    )
    return copy.deepcopy(found)


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
    last = _state(runner)
    roll_back(runner, path)
    assert runner._resume == resumed
    assert torch.equal(torch.get_rng_state(), streams)
    assert runner.optim_wrapper.param_groups[0]['lr'] == 0.125
    assert all(p.grad is None for p in runner.model.parameters())
    assert runner.epoch == 3

    # The weights in training are under 'module.' in the average's state.
    saved = torch.load(path, weights_only=True)
    found = _state(runner)
    with pytest.raises(AssertionError):
        same(found['weights'], last['weights'])
    for name, value in found['weights'].items():
        assert torch.equal(value, saved['ema_state_dict'][f'module.{name}'])
        average = found['average'][f'module.{name}']
        assert torch.equal(average, saved['state_dict'][name])
    same(found['momentum'], saved['optimizer']['state'])
