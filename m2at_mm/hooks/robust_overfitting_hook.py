"""Tells how much robustness the end of a training has lost."""

import math
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from m2at_mm.checks import check_number
from m2at_mm.methods import Standard
from m2at_mm.model_wrappers import bare_model
from m2at_mm.registry import HOOKS
from m2at_mm.runner.train_loops import counts_epochs, is_training

_KEY = 'robust_history'


@HOOKS.register_module()
class RobustOverfittingHook(Hook):
    """Compare the best and the last validation under attack.

    Robust accuracy on held-out images often falls again after the learning
    rate does (robust overfitting, arXiv 2002.11569). At the end of training
    this hook logs the best and the last figure of each attack, as a warning
    where the last one is more than ``max_loss`` points lower, or the best is
    no better than guessing. Standard training, which was never robust, is not
    warned of.

    Args:
        max_loss (float): In points of accuracy, at least 0. The default is
            above the noise of 1,000 images.
    """

    def __init__(self, max_loss: float = 2.0) -> None:
        check_number('max_loss', max_loss, 0)
        self.max_loss = max_loss

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        if not is_training(runner):
            return
        found = (metrics or {}).items()
        robust = {k: float(v) for k, v in found if k.startswith('robust/')}
        robust.pop('robust/clean', None)
        step = runner.epoch if counts_epochs(runner) else runner.iter
        known = runner.message_hub.runtime_info.get(_KEY, {})
        runner.message_hub.update_info(_KEY, {**known, step: robust})

    def after_train(self, runner: Runner) -> None:
        known = runner.message_hub.runtime_info.get(_KEY, {})
        if len(known) < 2:
            return
        model = bare_model(runner.model)
        robust = not isinstance(getattr(model, 'method', None), Standard)
        chance = 100 / (getattr(model, 'num_classes', None) or math.inf)
        unit = 'epoch' if counts_epochs(runner) else 'iteration'
        last = max(known)
        for name, value in known[last].items():
            steps = [step for step in sorted(known) if name in known[step]]
            best = max(steps, key=lambda step: known[step][name])
            lost, log = known[best][name] - value, runner.logger.info
            text = (
                f'{name}: best {known[best][name]:.1f} % after {unit} {best}, '
                f'last {value:.1f} % after {unit} {last}'
            )
            if robust and known[best][name] <= chance + self.max_loss:
                log = runner.logger.warning
                text += (
                    f'. Even the best is no better than guessing, {chance:.1f}'
                    ' %: train longer, or begin with a smaller radius'
                )
            elif robust and lost > self.max_loss:
                log = runner.logger.warning
                text += (
                    f'. {lost:.1f} points were lost to robust overfitting: '
                    'use the best checkpoint, or end training sooner'
                )
            log(text)
