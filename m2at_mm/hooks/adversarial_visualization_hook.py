"""Pictures of the train attack and the method while training."""

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
from mmengine.visualization import LocalVisBackend, MLflowVisBackend
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from m2at_mm import visualization as vis
from m2at_mm.attacks import attack_mode, own_random_stream
from m2at_mm.checks import check_count
from m2at_mm.hooks.watched_images import watched_batches, watched_loader
from m2at_mm.model_wrappers import bare_model
from m2at_mm.registry import HOOKS
from m2at_mm.runner.process_state import random_streams, set_random_streams
from m2at_mm.runner.train_loops import refuse_epochs

# No slash: MMEngine's local backend makes a file of the name.
_PICTURE = 'training_images'
_EPS = 'threat_model.eps'  # as AttackScheduleHook names it


@HOOKS.register_module()
@dataclass(eq=False)
class AdversarialVisualizationHook(Hook):
    """Show the train attack and its images on the same few images.

    The runner's visualizer is given the picture ``training_images`` (see
    :func:`m2at_mm.visualization.draw_training_images`), ``attack_success``,
    the percentage of the images that the network, not the average of an
    EMAHook, classifies correctly without attack and wrongly under it, and
    ``threat_model.eps``, unless :class:`AttackScheduleHook` logs it. Steps are
    iterations. Random starts and masks are always the same, and training is
    bit for bit what it is without the hook. A picture that fails, as with a
    full disk, is logged as an error, and training goes on.

    Args:
        interval (int): Epochs or iterations between pictures.
        by_epoch (bool): Whether ``interval`` counts epochs, else iterations.
        num_images (int): Number of images of the validation set, or of the
            training set where there is none, spread over its classes.
        num_rows (int): How many of them the picture shows.

    Raises:
        ValueError: The visualizer has no backend, the loop no epochs to
            count, or the model cannot be run in one process alone.
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
        if not runner.visualizer._vis_backends:
            raise ValueError(
                'visualizer has no vis_backends, so pictures would get lost: '
                "set visualizer.vis_backends=[dict(type='LocalVisBackend')], "
                'or remove AdversarialVisualizationHook'
            )
        if self.by_epoch:
            refuse_epochs(runner, f'interval={self.interval}')
        model = runner.model
        is_ddp = isinstance(model, DistributedDataParallel)
        if is_model_wrapper(model) and not is_ddp:
            raise ValueError(
                f'{type(model).__name__} spreads a model over processes, and '
                'pictures are made in one: remove '
                'AdversarialVisualizationHook, or train with '
                'AdversarialDistributedDataParallel'
            )
        bn_mode = getattr(bare_model(model).train_attack, 'bn_mode', 'eval')
        synced = any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
        if synced and bn_mode == 'batch':
            raise ValueError(
                "train_attack.bn_mode='batch' with sync_bn needs all "
                'processes, and pictures are made in one: remove '
                "AdversarialVisualizationHook, or set bn_mode='eval'"
            )

    def after_train_epoch(self, runner: Runner) -> None:
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._show(runner, f'epoch {runner.epoch + 1}', runner.iter)

    def after_train_iter(self, runner: Runner, *args: Any, **_: Any) -> None:
        due = self.every_n_train_iters(runner, self.interval)
        if due and not self.by_epoch:
            step = runner.iter + 1
            self._show(runner, f'iteration {step}', step)

    def after_train(self, runner: Runner) -> None:
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
        with self._going_on(runner, f'pictures of {note}'):
            found = self._look(runner)
            with self._going_on(runner, f'curves of {note}'):
                add_scalar = runner.visualizer.add_scalar
                fooled = [one.fooled() for one in found]
                if hits := [hit for hit in fooled if hit is not None]:
                    success = 100 * float(torch.cat(hits).float().mean())
                    add_scalar('attack_success', success, step)
                if f'train/{_EPS}' not in runner.message_hub.log_scalars:
                    add_scalar(_EPS, found[0].threat_model.eps, step)
            _add_picture(runner, found[0].first(self.num_rows), note, step)
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

    def _look(self, runner: Runner) -> list[vis.TrainingImages]:
        model = bare_model(runner.model)
        device = next(model.parameters()).device
        self._batches = self._batches or watched_batches(
            runner, self.num_images, self.num_rows
        )
        with attack_mode(model), own_random_stream(device, 0):
            return [
                vis.TrainingImages.of(model, *(one.to(device) for one in pair))
                for pair in self._batches
            ]


def _add_picture(
    runner: Runner, picture: vis.TrainingImages, note: str, step: int
) -> None:
    dataset = watched_loader(runner).dataset
    classes = getattr(dataset, 'metainfo', {}).get('classes')
    figure = vis.draw_training_images(picture, classes, note)
    pixels = vis.figure_pixels(figure)
    for backend in runner.visualizer._vis_backends.values():
        # MLflow is given no step, and takes its file's kind by the name.
        is_file = isinstance(backend, MLflowVisBackend)
        name = f'{_PICTURE}_{step}.png' if is_file else _PICTURE
        backend.add_image(name, pixels, step)
        # OpenCV, by which MMEngine writes pictures, tells of no failure.
        if type(backend) is LocalVisBackend:
            path = Path(backend._img_save_dir, f'{_PICTURE}_{step}.png')
            if not path.is_file() or not path.stat().st_size:
                text = f'{path} could not be written: is the disk full?'
                raise OSError(text)
