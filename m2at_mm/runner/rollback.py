"""A running training goes back to an earlier checkpoint."""

from typing import Any

from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner


def roll_back(runner: Runner, path: str) -> None:
    """Load weights, average weights, optimiser and loss scaler.

    All else goes on: epochs, learning rates, data, random streams, and what
    early stopping and schedulers by a metric have seen.
    """
    optimizer = runner.optim_wrapper
    # The schedule's, which schedulers change step by step.
    groups = optimizer.param_groups
    settings = [{k: v for k, v in g.items() if k != 'params'} for g in groups]
    # Otherwise EMAHook takes the average weights for those in training.
    resume, runner._resume = runner._resume, True
    checkpoint = runner.load_checkpoint(path)
    runner._resume = resume
    optimizer.load_state_dict(checkpoint['optimizer'])
    for group, kept in zip(optimizer.param_groups, settings):
        group.update(kept)
    # Those that are being accumulated belong to the weights left behind.
    optimizer.zero_grad()


def check_checkpoints(runner: Runner, interval: int, by_epoch: bool) -> None:
    """Refuse to go back where no checkpoint stays from check to check."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.by_epoch == by_epoch:
            regular = hook.interval > 0 and interval % hook.interval == 0
            kept = hook.max_keep_ckpts
            lasting = kept < 1 or kept * hook.interval >= interval
            if hook.save_optimizer and regular and lasting:
                return
    unit = 'epochs' if by_epoch else 'iterations'
    raise ValueError(
        f'interval={interval}: going back needs the checkpoint of the last '
        f'good check, {interval} {unit} ago, which would not be there. Set '
        f'default_hooks.checkpoint.interval to {interval} or a divisor of it, '
        f'with by_epoch={by_epoch} and save_optimizer=True, and '
        'max_keep_ckpts large enough'
    )


def check_step(model: Any) -> None:
    """Refuse to lower a step that is not taken in training."""
    attack, method = model.train_attack, model.method
    step = attack and attack.length_of_step(model.threat_model)
    if step is None or not method.needs_attack:
        raise ValueError(
            "action='lower_step' needs a train attack with a step (PGD, FGSM "
            f'or NFGSM), but method={type(method).__name__} with '
            f'train_attack={type(attack).__name__} takes none: '
            "choose action='rollback'"
        )
