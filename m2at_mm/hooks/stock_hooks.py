"""MMEngine's hooks in the form that adversarial training needs."""

from typing import Any

import torch
from mmengine.dist import all_reduce_params
from mmengine.hooks import EMAHook, LoggerHook
from mmengine.hooks import RuntimeInfoHook as StockRuntimeInfoHook
from mmengine.hooks import SyncBuffersHook as StockSyncBuffersHook
from mmengine.runner import Runner
from torch import Tensor

from m2at_mm.registry import HOOKS
from m2at_mm.runner.train_loops import checkpoint_follows, counts_epochs


@HOOKS.register_module()
class AveragedWeightsHook(EMAHook):
    """MMEngine's ``EMAHook`` as adversarial training uses it.

    Validation, and with it the choice of the best checkpoint, sees the
    averaged weights; a checkpoint has them as ``state_dict`` and those that
    are trained as ``ema_state_dict``.

    Args:
        momentum (float): Share of the newest weights. Defaults to 0.005, a
            decay of 0.995 in each iteration (arXiv 2103.01946).
        update_buffers (bool): Whether batch norm's running statistics are
            averaged as well. Defaults to True.
        **kwargs (Any): See ``EMAHook``.
    """

    def __init__(
        self,
        momentum: float = 0.005,
        update_buffers: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            momentum=momentum, update_buffers=update_buffers, **kwargs
        )


# Iterations after which all is read where nothing is logged.
_MOST_UNREAD = 1000


@HOOKS.register_module()
class RuntimeInfoHook(StockRuntimeInfoHook):
    """MMEngine's RuntimeInfoHook without waiting for a GPU.

    The stock hook reads each logged value in each iteration. This one keeps
    them on their device and reads them together, when a LoggerHook is about
    to log, at the end of an epoch, before a validation and before a
    checkpoint. What is logged and saved is the same. At other times a hook
    finds the value of the last log in the message hub.
    """

    def __init__(self) -> None:
        self._unread: list[dict[str, Any]] = []

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        kept = dict(outputs or {})
        for name, value in kept.items():
            if isinstance(value, Tensor):
                # A CUDA graph writes its next output over this one.
                kept[name] = value.detach().clone()
        self._unread.append(kept)
        if len(self._unread) >= _MOST_UNREAD or any(
            hook.every_n_inner_iters(batch_idx, hook.interval)
            or hook.end_of_epoch(runner.train_dataloader, batch_idx)
            for hook in runner.hooks
            if isinstance(hook, LoggerHook)
        ):
            self._read(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self._read(runner)

    def before_val(self, runner: Runner) -> None:
        """Read, as the end of a validation is logged, too."""
        self._read(runner)
        super().before_val(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: Any) -> None:
        """Put all values into the checkpoint, which holds the history."""
        if self._unread:
            self._read(runner)
            checkpoint['message_hub'] = runner.message_hub.state_dict()

    def after_train(self, runner: Runner) -> None:
        self._read(runner)
        super().after_train(runner)

    def _read(self, runner: Runner) -> None:
        values = [pair for one in self._unread for pair in one.items()]
        self._unread = []
        tensors = [value for _, value in values if isinstance(value, Tensor)]
        devices = [one.device for one in tensors if one.device.type != 'cpu']
        device = devices[0] if devices else 'cpu'
        numbers = [one.to(device, torch.float64).squeeze() for one in tensors]
        read = iter(torch.stack(numbers).tolist() if numbers else [])
        for name, value in values:
            number = next(read) if isinstance(value, Tensor) else value
            runner.message_hub.update_scalar(f'train/{name}', number)


@HOOKS.register_module()
class SyncBuffersHook(StockSyncBuffersHook):
    """Average the running statistics of all processes where they are used.

    MMEngine's hook averages them after an epoch and before a validation
    inside one; this one also before a checkpoint by iteration, and also those
    of average weights (EMAHook). With one process it does nothing.
    """

    def before_train(self, runner: Runner) -> None:
        """A checkpoint of an epoch's end holds averages already."""
        self.called_in_train = counts_epochs(runner)

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        # Inside an epoch that goes on each process resumes with its own.
        if not counts_epochs(runner) and checkpoint_follows(runner):
            self._average(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        if not self.called_in_train:
            self._average(runner)
        self.called_in_train = False

    def after_train_epoch(self, runner: Runner) -> None:
        self._average(runner)
        self.called_in_train = True

    def _average(self, runner: Runner) -> None:
        if not self.distributed:
            return
        all_reduce_params(runner.model.buffers(), op='mean')
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                all_reduce_params(hook.ema_model.module.buffers(), op='mean')
