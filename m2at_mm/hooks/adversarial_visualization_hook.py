"""Pictures of the train attack and the method while training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.visualization import LocalVisBackend
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from m2at_mm.attacks import attack_mode, own_random_stream
from m2at_mm.checks import check_count
from m2at_mm.hooks.watched_images import watched_batches, watched_loader
from m2at_mm.model_wrappers import bare_model
from m2at_mm.registry import HOOKS
from m2at_mm.runner.process_state import random_streams, set_random_streams
from m2at_mm.runner.train_loops import refuse_epochs
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
@dataclass(eq=False)
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
        num_images (int): Number of images of the validation set, or of the
            training set where there is none, spread over its classes.
            Defaults to 128.
        num_rows (int): How many of them the picture shows. Defaults to 4.

    Example:
        >>> default_hooks = dict(
        ...     pictures=dict(
        ...         type='m2at_mm.AdversarialVisualizationHook', interval=10))
    """

    interval: int = 1
    by_epoch: bool = True
    num_images: int = 128
    num_rows: int = 4

    def __post_init__(self) -> None:
        for name in ('interval', 'num_images', 'num_rows'):
            check_count(name, getattr(self, name))
        self._batches: list[tuple[Tensor, Tensor]] = []
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
        if self.by_epoch:
            refuse_epochs(runner, f'interval={self.interval}')
        _check_runs_alone(runner.model)

    def after_train_epoch(self, runner: Runner) -> None:
        """Show, where epochs are counted."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._show(runner, f'epoch {runner.epoch + 1}', runner.iter)

    def after_train_iter(self, runner: Runner, *args: Any, **_: Any) -> None:
        """Show, where iterations are counted."""
        if self.by_epoch:
            return
        if self.every_n_train_iters(runner, self.interval):
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
                with self._going_on(runner, f'curves of {note}'):
                    _add_curves(runner, picture, success, step)
                _add_picture(runner, picture, note, step)
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
        if not self._batches:
            self._batches = watched_batches(
                runner, self.num_images, self.num_rows
            )
        with attack_mode(model), own_random_stream(device, 0):
            found = [
                TrainingImages.of(model, *(one.to(device) for one in batch))
                for batch in self._batches
            ]
        fooled = [hit for one in found if (hit := one.fooled()) is not None]
        success = torch.cat(fooled).float().mean() if fooled else None
        picture = found[0].first(self.num_rows)
        return picture, None if success is None else 100 * float(success)


def _add_curves(
    runner: Runner, picture: TrainingImages, success: float | None, step: int
) -> None:
    if success is not None:
        runner.visualizer.add_scalar(_SUCCESS, success, step)
    if f'train/{_EPS}' not in runner.message_hub.log_scalars:
        eps = picture.threat_model.eps
        runner.visualizer.add_scalar(_EPS, eps, step)


def _add_picture(
    runner: Runner, picture: TrainingImages, note: str, step: int
) -> None:
    classes = getattr(watched_loader(runner).dataset, 'metainfo', {}).get(
        'classes'
    )
    figure = draw_training_images(picture, classes, note)
    runner.visualizer.add_image(_PICTURE, figure_pixels(figure), step)
    for backend in runner.visualizer._vis_backends.values():
        # OpenCV, by which MMEngine writes pictures, tells of no failure.
        if type(backend) is LocalVisBackend:
            path = Path(backend._img_save_dir, f'{_PICTURE}_{step}.png')
            if not path.is_file() or not path.stat().st_size:
                raise OSError(
                    f'{path} could not be written: is the disk full?'
                )


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
