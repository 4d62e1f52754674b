"""Averaged weights, MMEngine's in the form that adversarial training uses."""

from typing import Any

import torch
from mmengine.hooks import EMAHook
from mmengine.model import MomentumAnnealingEMA
from mmengine.runner import Runner
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from m2at_mm.registry import HOOKS


class _Average(MomentumAnnealingEMA):
    """It averages all weights in one operation, not each in its own."""

    def update_parameters(self, model: nn.Module) -> None:
        steps, own = int(self.steps), self.avg_parameters
        if steps == 0 or steps % self.interval or not self.update_buffers:
            super().update_parameters(model)
            return
        given = model.state_dict()
        floats = [name for name in own if own[name].is_floating_point()]
        torch._foreach_lerp_(
            [own[name].data for name in floats],
            [given[name].data.to(own[name].device) for name in floats],
            max(self.momentum, self.gamma / (self.gamma + steps)),
        )
        self.steps += 1


@HOOKS.register_module()
class AveragedWeightsHook(EMAHook):
    """MMEngine's ``EMAHook`` as adversarial training uses it.

    Validation, and with it the choice of the best checkpoint, sees the
    averaged weights; a checkpoint has them as ``state_dict`` and those that
    are trained as ``ema_state_dict``. The hook steps aside where another
    ``EMAHook`` averages, and where FSDP shards the weights.

    Args:
        momentum (float): Share of the newest weights; 0.005 is a decay of
            0.995 in each iteration (arXiv 2103.01946).
        gamma (int): In iteration n the share is at least
            ``gamma / (gamma + n)``, so that a short training is not judged by
            its first weights.
        update_buffers (bool): Whether to average running statistics, too.
        **kw (Any): See ``EMAHook``.
    """

    def __init__(
        self,
        momentum: float = 0.005,
        gamma: int = 10,
        update_buffers: bool = True,
        **kw: Any,
    ) -> None:
        ours = dict(momentum=momentum, gamma=gamma)
        ours['update_buffers'] = update_buffers
        super().__init__(_Average, **ours, **kw)

    def before_run(self, runner: Runner) -> None:
        """Make the average, or step aside."""
        others = [h for h in runner.hooks if isinstance(h, EMAHook)]
        parts = runner.model.modules()
        if others != [self]:
            reason = 'another EMAHook averages them'
        elif any(isinstance(p, FullyShardedDataParallel) for p in parts):
            reason = 'they are sharded'
        else:
            super().before_run(runner)
            return
        runner._hooks = [hook for hook in runner.hooks if hook is not self]
        runner.logger.info(
            f'{type(self).__name__} averages no weights: {reason}'
        )
