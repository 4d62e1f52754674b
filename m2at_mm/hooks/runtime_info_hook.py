"""Logged values that the host reads together."""

from typing import Any

import torch
from mmengine.hooks import LoggerHook
from mmengine.hooks import RuntimeInfoHook as StockRuntimeInfoHook
from mmengine.runner import Runner
from torch import Tensor

from m2at_mm.registry import HOOKS

# Iterations after which all is read where nothing is logged.
_MOST_UNREAD = 1000


@HOOKS.register_module()
class RuntimeInfoHook(StockRuntimeInfoHook):
    """MMEngine's RuntimeInfoHook without waiting for a GPU.

    The stock hook reads each logged value in each iteration, so host and GPU
    wait for each other. This hook keeps the values on their device and reads
    them together, when a LoggerHook is about to log, at the end of an epoch,
    before a validation and before a checkpoint. What is logged and saved is
    the same. A hook that reads ``train/loss`` from the message hub at another
    time finds the value of the last log.
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
