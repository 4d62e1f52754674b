"""Pictures of the train attack and the method while training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.visualization import LocalVisBackend
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from m2at_mm.attacks import attack_mode, own_random_stream
from m2at_mm.checks import check_count
from m2at_mm.evaluation.samples import Samples
from m2at_mm.model_wrappers import bare_model
from m2at_mm.registry import HOOKS
from m2at_mm.runner.process_state import random_streams, set_random_streams
from m2at_mm.runner.train_loops import counts_epochs
from m2at_mm.visualization import (
    TrainingImages,
    draw_training_images,
    figure_pixels,
)

# No slash: MMEngine's local backend makes a file of the name.
_PICTURE = 'training_images'
_SUCCESS = 'attack_success'
_EPS = 'threat_model.eps'  # as AttackScheduleHook names it


@HOOKS.register_module()
class AdversarialVisualizationHook(Hook):
    """Show the train attack and its images on the same few images.

    After each ``interval`` epochs or iterations the runner's visualizer, so
    whatever ``vis_backends`` it has, is given

    - the picture ``training_images``: clean images, masks, perturbations,
      training images and predictions, as far as the method has them (see
      :func:`m2at_mm.visualization.draw_training_images`);
    - ``attack_success``: per cent of ``num_images`` that are right when clean
      and wrong under the train attack;
    - ``threat_model.eps``, unless :class:`AttackScheduleHook` logs it.

    Steps are counted in iterations, as those of the losses. Random starts and
    masks are the same every time, so that only the network differs. It is the
    network in training, in eval mode and the precision of its parameters: not
    the averaged one of an EMAHook.

    Nothing is computed in between, nor in other processes than the main one,
    which the others wait for. Training is bit for bit what it is without the
    hook. Where a picture fails, as with a full disk or a tracking server that
    is gone, an error is logged, and once more at the end of training, which
    goes on.

    Args:
        interval (int): Epochs or iterations between pictures. Defaults to 1.
        by_epoch (bool): Whether ``interval`` counts epochs, else iterations.
            Defaults to True.
        num_images (int): Of the validation set, or of the training set where
            there is none, spread over its classes. Defaults to 128.
        num_rows (int): How many of them the picture shows. Defaults to 4.

    Raises:
        ValueError: An argument is out of its range. At the start of training,
            the visualizer has no backend, the loop has no epochs to count, or
            the model cannot be run in one process alone.

    Example:
        >>> default_hooks = dict(
        ...     pictures=dict(
        ...         type='m2at_mm.AdversarialVisualizationHook', interval=10))
    """

    def __init__(
        self,
        interval: int = 1,
        by_epoch: bool = True,
        num_images: int = 128,
        num_rows: int = 4,
    ) -> None:
        for name, number in (
            ('interval', interval),
            ('num_images', num_images),
            ('num_rows', num_rows),
        ):
            check_count(name, number)
        self.interval = interval
        self.by_epoch = by_epoch
        self.num_images = num_images
        self.num_rows = num_rows
        self._batches: list[tuple[Tensor, Tensor]] | None = None
        self._failures = 0

    def before_train(self, runner: Runner) -> None:
        """Refuse what would show nothing, or hang.

        Raises:
            ValueError: The visualizer has no backend, the loop has no epochs
                to count, or the model cannot be run in one process alone.
        """
        if not runner.visualizer._vis_backends:
            raise ValueError(
                'visualizer has no vis_backends, so pictures would get lost: '
                "set visualizer.vis_backends=[dict(type='LocalVisBackend')], "
                'or remove AdversarialVisualizationHook'
            )
        if self.by_epoch and not counts_epochs(runner):
            raise ValueError(
                'by_epoch=True needs epochs, but training is by iterations: '
                'set by_epoch=False and interval to a number of iterations'
            )
        _check_runs_alone(runner.model)

    def after_train_epoch(self, runner: Runner) -> None:
        """Show, where epochs are counted."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._show(runner, f'epoch {runner.epoch + 1}', runner.iter)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Show, where iterations are counted."""
        if not self.by_epoch and self.every_n_train_iters(
            runner, self.interval
        ):
            step = runner.iter + 1
            self._show(runner, f'iteration {step}', step)

    def after_train(self, runner: Runner) -> None:
        """Say once more what is missing."""
        if self._failures:
            runner.logger.error(
                f'{self._failures} pictures or curves of '
                'AdversarialVisualizationHook are missing, for the reasons '
                'logged above'
            )

    def _show(self, runner: Runner, note: str, step: int) -> None:
        if not dist.is_main_process():
            return
        # Backends draw numbers, too, as some do for their names.
        streams = random_streams()
        try:
            with self._going_on(runner, f'pictures of {note}'):
                picture, success = self._look(runner)
                self._record(runner, picture, success, note, step)
        finally:
            set_random_streams(streams)

    @contextmanager
    def _going_on(self, runner: Runner, what: str) -> Iterator[None]:
        """Log an error in place of raising it."""
        try:
            yield
        except Exception as error:
            self._failures += 1
            runner.logger.error(
                f'{what} failed, training goes on: '
                f'{type(error).__name__}: {error}'
            )

    def _look(self, runner: Runner) -> tuple[TrainingImages, float | None]:
        """The images of the picture, and the attack's success in per cent."""
        model = bare_model(runner.model)
        device = next(model.parameters()).device
        if self._batches is None:
            with own_random_stream(device, 0):
                self._batches = self._load(runner)
        shown: TrainingImages | None = None
        fooled: list[Tensor] = []
        with attack_mode(model), own_random_stream(device, 0):
            for images, labels in self._batches:
                found = TrainingImages.of(
                    model, images.to(device), labels.to(device)
                )
                shown = shown or found.first(self.num_rows)
                known = found.fooled()
                fooled += [] if known is None else [known]
        assert shown is not None  # num_images is at least 1
        share = torch.cat(fooled).float().mean() if fooled else None
        return shown, None if share is None else 100 * float(share)

    def _load(self, runner: Runner) -> list[tuple[Tensor, Tensor]]:
        """The images, in batches no larger than the loader's."""
        loader = (runner.val_loop or runner.train_loop).dataloader
        samples = Samples(
            loader.dataset,
            bare_model(runner.model).data_preprocessor,
            loader.collate_fn,
            # Read by a worker, training images are not counted as read, see
            # SeededPipeline.
            num_workers=0 if runner.val_loop else 1,
        )
        order = samples.spread(self.num_images)
        size = max(loader.batch_size or 1, self.num_rows)
        parts = [
            order[start : start + size] for start in range(0, len(order), size)
        ]
        return [
            (images.cpu(), labels.cpu())
            for images, labels in samples.batches(parts)
        ]

    def _record(
        self,
        runner: Runner,
        picture: TrainingImages,
        success: float | None,
        note: str,
        step: int,
    ) -> None:
        visualizer = runner.visualizer
        with self._going_on(runner, f'curves of {note}'):
            if success is not None:
                visualizer.add_scalar(_SUCCESS, success, step)
            if f'train/{_EPS}' not in runner.message_hub.log_scalars:
                eps = picture.threat_model.eps
                visualizer.add_scalar(_EPS, eps, step)
        loader = (runner.val_loop or runner.train_loop).dataloader
        classes = getattr(loader.dataset, 'metainfo', {}).get('classes')
        figure = draw_training_images(picture, classes, note)
        visualizer.add_image(_PICTURE, figure_pixels(figure), step)
        for backend in visualizer._vis_backends.values():
            _check_written(backend, step)


def _check_written(backend: Any, step: int) -> None:
    """OpenCV, by which MMEngine writes pictures, tells of no failure."""
    if type(backend) is LocalVisBackend:
        path = Path(backend._img_save_dir, f'{_PICTURE}_{step}.png')
        if not path.is_file() or not path.stat().st_size:
            raise OSError(f'{path} could not be written: is the disk full?')


def _check_runs_alone(model: nn.Module) -> None:
    """Raise ValueError if other processes must take part in a forward."""
    if is_model_wrapper(model) and not isinstance(
        model, DistributedDataParallel
    ):
        raise ValueError(
            f'{type(model).__name__} spreads a model over processes, and '
            'pictures are made in one: remove AdversarialVisualizationHook, '
            'or train with AdversarialDistributedDataParallel'
        )
    attack = bare_model(model).train_attack
    synchronised = any(
        isinstance(m, nn.SyncBatchNorm) for m in model.modules()
    )
    if synchronised and getattr(attack, 'bn_mode', 'eval') == 'batch':
        raise ValueError(
            "train_attack.bn_mode='batch' with sync_bn needs all processes, "
            'and pictures are made in one: remove '
            "AdversarialVisualizationHook, or set bn_mode='eval'"
        )
