import torch
from torch import nn

from m2at_mm.hooks import AveragedWeightsHook
from m2at_mm.registry import HOOKS


class _Runner:
    """As much of a runner as the hook sees before and in training."""

    def __init__(self) -> None:
        self.model = nn.BatchNorm1d(1)
        self.iter = self.epoch = 0


def test_weights_and_buffers_are_averaged() -> None:
    hook = HOOKS.build(dict(type='m2at_mm.AveragedWeightsHook'))
    assert isinstance(hook, AveragedWeightsHook)
    runner = _Runner()
    hook.before_run(runner)
    expected = None
    for step in range(3):
        runner.iter = step
        runner.model.weight.data = torch.tensor([2.0**step])
        runner.model.running_mean.fill_(-(3.0**step))
        hook.after_train_iter(runner, step)
        now = torch.tensor([2.0**step, -(3.0**step)])
        expected = now if expected is None else 0.995 * expected + 0.005 * now
    averaged = hook.ema_model.module
    found = torch.cat([averaged.weight.data, averaged.running_mean])
    torch.testing.assert_close(found, expected)
