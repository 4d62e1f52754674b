import logging
from typing import Any

import pytest
import torch
from mmengine.hooks import EMAHook
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from m2at_mm.hooks import AveragedWeightsHook
from m2at_mm.registry import HOOKS


class _Runner:
    """As much of a runner as the hook sees before and in training."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        self.iter = self.epoch = 0
        self._hooks: list[Any] = []
        self.logger = logging.getLogger('test')

    @property
    def hooks(self) -> list[Any]:
        return self._hooks


def average(hook: EMAHook, steps: int) -> dict[str, torch.Tensor]:
    """The average of weights that are drawn anew in each step."""
    runner = _Runner()
    runner._hooks = [hook]
    hook.before_run(runner)
    for step in range(steps):
        runner.iter = step
        for tensor in runner.model.state_dict().values():
            tensor.copy_(10 * torch.rand(tensor.shape) - 5)
        hook.after_train_iter(runner, step)
    return hook.ema_model.state_dict()


def test_the_share_of_the_newest_weights() -> None:
    hook = HOOKS.build(dict(type='m2at_mm.AveragedWeightsHook'))
    assert isinstance(hook, AveragedWeightsHook)
    runner = _Runner()
    runner._hooks = [hook]
    hook.before_run(runner)
    expected = torch.zeros(3)
    for step in range(3000):
        runner.iter = step
        newest = torch.tensor([step % 7.0, step % 5.0, 1.0])
        runner.model[1].weight.data = newest
        runner.model[1].running_mean.copy_(-newest)
        hook.after_train_iter(runner, step)
        share = max(0.005, 10 / (10 + step))
        expected = (1 - share) * expected + share * newest
    averaged = hook.ema_model.module[1]
    torch.testing.assert_close(averaged.weight.data, expected)
    torch.testing.assert_close(averaged.running_mean, -expected)


@pytest.mark.parametrize(
    'settings',
    [
        dict(),
        dict(momentum=0.3, gamma=2),
        dict(interval=3),
        dict(update_buffers=False),
        dict(device='cpu', begin_iter=4),
    ],
)
def test_it_averages_as_mmengine_does(settings: dict[str, Any]) -> None:
    known = dict(momentum=0.005, gamma=10, update_buffers=True) | settings
    expected = average(EMAHook('MomentumAnnealingEMA', **known), 20)
    found = average(AveragedWeightsHook(**settings), 20)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize('other', [EMAHook, AveragedWeightsHook])
def test_one_hook_averages(other: type[EMAHook]) -> None:
    runner = _Runner()
    runner._hooks = [AveragedWeightsHook(), last := other()]
    for hook in runner.hooks:
        hook.before_run(runner)
    assert runner.hooks == [last]
    assert hasattr(last, 'ema_model')


def test_sharded_weights_are_not_averaged() -> None:
    runner = _Runner()
    sharded = FullyShardedDataParallel.__new__(FullyShardedDataParallel)
    nn.Module.__init__(sharded)
    runner.model.append(sharded)
    runner._hooks = [hook := AveragedWeightsHook()]
    hook.before_run(runner)
    assert runner.hooks == []
