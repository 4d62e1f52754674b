"""What follows an iteration or an epoch of training."""

from __future__ import annotations

from bisect import bisect

from mmengine.hooks import CheckpointHook
from mmengine.runner import IterBasedTrainLoop, Runner


def counts_epochs(runner: Runner) -> bool:
    """Whether the training loop counts epochs.

    A loop by iterations is one single epoch for all hooks, so nothing that
    is set by epoch would ever change in it.

    Args:
        runner (Runner): Runner of the training.

    Returns:
        bool: False for MMEngine's IterBasedTrainLoop.
    """
    return not isinstance(runner.train_loop, IterBasedTrainLoop)


def refuse_epochs(runner: Runner, setting: str) -> None:
    """Refuse a setting by epoch in a loop by iterations.

    Args:
        runner (Runner): Runner of the training.
        setting (str): What is given by epoch, for the message.

    Raises:
        ValueError: The training loop counts no epochs.
    """
    if not counts_epochs(runner):
        raise ValueError(
            f'{setting} counts epochs (by_epoch=True), but the training loop '
            'counts iterations and has no epochs: set by_epoch=False there '
            'and give iterations'
        )


def checkpoint_follows(runner: Runner) -> bool:
    """Whether a checkpoint by iteration is saved after this iteration.

    Args:
        runner (Runner): Runner of the training, in ``after_train_iter``.

    Returns:
        bool: True if a CheckpointHook is about to save.
    """
    return any(
        hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
        or (hook.save_last and hook.is_last_train_iter(runner))
        for hook in runner.hooks
        if isinstance(hook, CheckpointHook) and not hook.by_epoch
    )


def validation_follows(runner: Runner, done: int) -> bool:
    """Whether the training loop validates at a point of the training.

    Args:
        runner (Runner): Runner of the training.
        done (int): Epochs that were trained, or iterations in a loop by
            iterations.

    Returns:
        bool: True if the loop validates there.
    """
    loop = runner.train_loop
    if runner.val_loop is None:
        return False
    # As in the loops' _decide_current_val_interval().
    step = bisect(loop.dynamic_milestones, done + 1)
    interval = loop.dynamic_intervals[step - 1]
    last = loop.max_epochs if counts_epochs(runner) else loop.max_iters
    due: bool = done >= max(1, loop.val_begin) and (
        done % interval == 0 or done == last
    )
    return due
