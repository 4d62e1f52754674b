"""MMEngine's hooks in the form that adversarial training needs."""

import itertools
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce_params, is_main_process
from mmengine.fileio import LocalBackend, get_file_backend, register_backend
from mmengine.hooks import CheckpointHook, EMAHook, LoggerHook
from mmengine.hooks import RuntimeInfoHook as StockRuntimeInfoHook
from mmengine.hooks import SyncBuffersHook as StockSyncBuffersHook
from mmengine.runner import Runner
from torch import Tensor

from m2at_mm.files import name_last_checkpoint, replace_file
from m2at_mm.registry import HOOKS
from m2at_mm.runner.process_state import make_plain, restore
from m2at_mm.runner.train_loops import checkpoint_follows, counts_epochs

# Iterations after which all is read where nothing is logged.
_MOST_UNREAD = 1000
#: Name of the storage backend that never leaves half a file.
ATOMIC_LOCAL = 'm2at_mm.atomic_local'
# Of the weights, in a published copy's name.
_HASH = '[0-9a-f]' * 8
_OUTDATED = 'outdated_ckpts'


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
        self, runner: Runner, batch_idx: int, outputs: Any = None, **_: Any
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


@register_backend(ATOMIC_LOCAL)
class AtomicLocalBackend(LocalBackend):
    """MMEngine's local files, where ``put`` never leaves half a file."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        replace_file(filepath, obj)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook for runs that can end at any moment.

    A checkpoint of a local folder is written beside, then renamed, and
    outdated ones go last: a kill or a full disk leaves whole ones. It holds
    tensors and built-in types only, so it loads into stock mmpretrain with
    ``weights_only=True``, this package not imported. Arguments: see
    :class:`mmengine.hooks.CheckpointHook`.

    Raises:
        OSError: A checkpoint cannot be written, as on a full disk.
    """

    backend_args: dict[str, Any] | None
    file_backend: Any = None
    _outdated: list[str]

    def before_train(self, runner: Runner) -> None:
        if self.backend_args is None and self.file_client_args is None:
            where = self.out_dir or runner.work_dir
            if type(get_file_backend(where)) is LocalBackend:
                self.backend_args = dict(backend=ATOMIC_LOCAL)
        super().before_train(runner)
        if self.by_epoch and not counts_epochs(runner):
            runner.logger.warning(
                'checkpoints are saved by epoch, but the training loop counts '
                'iterations: there is none before the end. Set '
                'default_hooks.checkpoint.by_epoch=False and interval'
            )
        known = runner.message_hub.runtime_info
        self._outdated = list(known.get(_OUTDATED, []))
        # In each checkpoint, so that a resumed run removes them.
        runner.message_hub.update_info(_OUTDATED, self._outdated)
        self.file_backend = _Postponing(self.file_backend, self._outdated)
        self._remove_outdated()
        last = known.get('last_ckpt')
        if last is not None and self.file_backend.isfile(last):
            # Of the run that goes on: it may be the last one of all.
            self.last_ckpt = last

    def before_save_checkpoint(self, runner: Runner, checkpoint: Any) -> None:
        """Save only what ``weights_only=True`` loads, without this package."""
        # MMEngine's OneCycleLR puts its curve, a function, into its state; a
        # scheduler that goes on has its own.
        parts = checkpoint.get('param_schedulers', [])
        parts = parts.values() if isinstance(parts, dict) else [parts]
        for state in itertools.chain(*parts):
            for key in [key for key in state if callable(state[key])]:
                del state[key]
        make_plain(checkpoint)

    def after_load_checkpoint(self, runner: Runner, checkpoint: Any) -> None:
        restore(checkpoint)

    # With _save_best_checkpoint the only one of MMEngine's methods that writes
    # or removes checkpoints in training. As there, but the old one goes last.
    def _save_checkpoint_with_step(
        self, runner: Runner, step: int, meta: dict[str, Any]
    ) -> None:
        hub = runner.message_hub
        if self.max_keep_ckpts > 0 and step not in [*self.keep_ckpt_ids][-1:]:
            ids = self.keep_ckpt_ids
            if len(ids) == self.max_keep_ckpts:
                self._outdated.append(self._path(ids.popleft()))
            ids.append(step)
            hub.update_info('keep_ckpt_ids', list(ids))
        self.last_ckpt = self._path(step)
        hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            self.filename_tmpl.format(step),
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            name_last_checkpoint(runner.work_dir, self.last_ckpt)
        self._remove_outdated()

    def _save_best_checkpoint(self, runner: Runner, metrics: Any) -> None:
        # Without training, in runner.val(), there is nothing to save.
        if self.file_backend is not None:
            super()._save_best_checkpoint(runner, metrics)
            self._remove_outdated()

    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        """As in CheckpointHook, in place of an earlier copy of the same."""
        path = Path(ckpt_path)
        earlier = set(path.parent.glob(f'{path.stem}-{_HASH}.pth'))
        super()._publish_model(runner, ckpt_path)
        if is_main_process():
            copies = set(path.parent.glob(f'{path.stem}-{_HASH}.pth'))
            for copy in earlier if copies > earlier else ():
                copy.unlink()

    def _path(self, step: int) -> str:
        name = self.filename_tmpl.format(step)
        return str(self.file_backend.join_path(self.out_dir, name))

    def _remove_outdated(self) -> None:
        backend = self.file_backend.backend
        for path in self._outdated if is_main_process() else ():
            if backend.isfile(path):
                backend.remove(path)
            elif backend.isdir(path):  # as DeepSpeed saves them
                backend.rmtree(path)
        self._outdated.clear()


class _Postponing:
    """A file backend that notes the files that it is told to remove."""

    def __init__(self, backend: Any, outdated: list[str]) -> None:
        self.backend = backend
        self.remove = self.rmtree = outdated.append

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)
