"""Pictures while training, and a training that they don't change."""

import copy
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import pytest
import torch
from digits_runner import build_digits_runner, log_of, same
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseDataPreprocessor
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, VISBACKENDS
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.visualization import LocalVisBackend, MLflowVisBackend
from PIL import Image
from pytest import MonkeyPatch
from torch import nn
from two_processes import on_two_processes

from m2at_mm.attacks import own_random_stream
from m2at_mm.hooks import AdversarialVisualizationHook
from m2at_mm.hooks.watched_images import watched_batches
from m2at_mm.model_wrappers import AdversarialDistributedDataParallel
from m2at_mm.runner.process_state import random_streams
from m2at_mm.visualization import TrainingImages

# Ten images in batches of five: two iterations an epoch.
EPS = 'threat_model.eps'
SMALL = dict(train_dataloader=dict(batch_size=5))


class Watcher(Hook):
    """Notes a training's modes and streams, after all other hooks."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.modes: list[set[bool]] = []
        self.streams: list[Any] = []

    def after_train_epoch(self, runner: Runner) -> None:
        self.modes.append({m.training for m in runner.model.modules()})
        self.streams.append(random_streams())


def train(work_dir: Path, epochs: int, hooks: dict, **settings: Any) -> Any:
    # Merging takes _delete_ out.
    settings = copy.deepcopy(dict(SMALL, default_hooks=hooks, **settings))
    runner = build_digits_runner(work_dir, 10, epochs=epochs, **settings)
    watcher = Watcher()
    runner.register_hook(watcher)
    runner.train()
    return runner, watcher


def pictures(**settings: Any) -> dict[str, dict]:
    settings = dict(num_images=6, num_rows=2) | settings
    kind = dict(type='m2at_mm.AdversarialVisualizationHook')
    return dict(pictures=kind | settings)


def files(work_dir: Path) -> dict[str, Path]:
    return {path.name: path for path in work_dir.rglob('vis_image/*')}


def scalars(work_dir: Path, name: str) -> dict[int, float]:
    """What the local backend was given, by step."""
    (path,) = work_dir.rglob('scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {one['step']: one[name] for one in lines if name in one}


def errors(work_dir: Path) -> list[str]:
    lines = log_of(work_dir).splitlines()
    return [one for one in lines if '- ERROR -' in one]


SHOWN = [(dict(interval=2), [4, 8])]
SHOWN += [(dict(interval=3, by_epoch=False), [3, 6])]


@pytest.mark.parametrize(('settings', 'steps'), SHOWN)
def test_shows_at_intervals_only(
    settings: dict, steps: list, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    """The network in training is shown, not the average."""
    seen: list[Any] = []  # the networks, and their weights at that time
    look = TrainingImages.of

    def spy(model: Any, *batch: Any) -> TrainingImages:
        seen.append((model, model.head.fc.weight.detach().clone()))
        return look(model, *batch)

    monkeypatch.setattr(TrainingImages, 'of', spy)
    ema = dict(ema=dict(type='EMAHook', momentum=0.1))
    hooks = ema | pictures(**settings)
    runner, _ = train(tmp_path, 4, hooks, train_cfg=dict(val_interval=9))
    assert len(seen) == 2 and seen[1][0] is runner.model
    if steps[1] == 8:  # the end
        assert torch.equal(seen[1][1], runner.model.head.fc.weight)
    names = {f'training_images_{step}.png' for step in steps}
    assert files(tmp_path).keys() == names
    assert list(scalars(tmp_path, 'attack_success')) == steps
    eps = scalars(tmp_path, EPS)
    assert eps == {step: pytest.approx(32 / 255) for step in steps}
    assert not errors(tmp_path)
    for path in files(tmp_path).values():
        with Image.open(path) as picture:
            assert picture.width > 1000 and picture.height > 300


def test_success_is_of_the_train_attack(tmp_path: Path) -> None:
    runner, _ = train(tmp_path, 1, pictures(num_images=8))
    model = runner.model.eval()
    ((images, labels),) = watched_batches(runner, 8)
    given = model, images, labels, model.threat_model
    with own_random_stream(images.device, 0):
        attacked = model.train_attack(*given)
    with torch.no_grad():
        clean = model(images).argmax(1) == labels
        robust = model(attacked).argmax(1) == labels
    expected = 100 * (clean & ~robust).float().mean()
    found = scalars(tmp_path, 'attack_success')
    assert found == {2: pytest.approx(float(expected))}


def test_success_is_of_right_images(tmp_path: Path, monkeypatch: Any) -> None:
    """One of each batch of 4, 4 and 2."""

    def fooled(self: TrainingImages) -> torch.Tensor:
        return torch.arange(len(self.labels)) == 0

    monkeypatch.setattr(TrainingImages, 'fooled', fooled)
    val = dict(val_dataloader=dict(batch_size=4))
    train(tmp_path, 1, pictures(num_images=10), **val)
    assert scalars(tmp_path, 'attack_success') == {2: pytest.approx(30.0)}


@OPTIM_WRAPPERS.register_module()
class _CPUAutocast(OptimWrapper):
    """Mixed precision without a GPU."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with torch.autocast('cpu'), super().optim_context(model):
            yield


NO_VALIDATION = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)
FREE_AT = dict(method=dict(_delete_=True, type='m2at_mm.FreeAT'))
IAT = dict(method=dict(_delete_=True, type='m2at_mm.IAT'))
IAT |= dict(train_attack=dict(bn_mode='train'))
TRAININGS: dict[str, tuple[bool, dict[str, Any]]] = {
    'm2at': (True, {}),
    'free-at': (False, dict(model=FREE_AT)),
    'train mode': (True, dict(model=IAT)),
    'autocast': (False, dict(optim_wrapper=dict(type='_CPUAutocast'))),
    # Training images are read by the hook as well as by the loop.
    'no validation': (False, NO_VALIDATION),
}


@pytest.mark.parametrize('kind', TRAININGS)
def test_training_is_as_without(kind: str, tmp_path: Path) -> None:
    by_epoch, settings = TRAININGS[kind]
    found = []
    ema = dict(type='EMAHook', momentum=0.5, update_buffers=True)
    extra: dict[str, Any] = dict(ema=ema)
    if settings is NO_VALIDATION:
        extra['checkpoint'] = dict(save_best=None)
    for name, hook in (('without', {}), ('with', pictures(by_epoch=by_epoch))):
        runner, watcher = train(tmp_path / name, 2, extra | hook, **settings)
        (ema,) = (one for one in runner.hooks if isinstance(one, EMAHook))
        state = (runner.model, ema.ema_model, runner.optim_wrapper)
        found.append([one.state_dict() for one in state] + [watcher.streams])
        assert watcher.modes == [{True}, {True}]
    same(*found)
    assert len(files(tmp_path / 'with')) == (2 if by_epoch else 4)
    assert not files(tmp_path / 'without')
    assert not errors(tmp_path / 'with')


def test_a_scheduled_radius_is_logged_once(tmp_path: Path) -> None:
    one = dict(param=EPS, values=['0/255', '8/255'], milestones=[0, 1])
    eps = dict(type='m2at_mm.AttackScheduleHook', schedules=[one])
    hooks = dict(eps=eps, logger=dict(interval=1))
    train(tmp_path, 2, pictures() | hooks)
    (path,) = tmp_path.rglob('scalars.json')
    lines = map(json.loads, path.read_text().splitlines())
    assert all('loss' in line for line in lines if EPS in line)
    # Also with a radius of nothing there is a picture.
    assert len(files(tmp_path)) == 2 and not errors(tmp_path)


@VISBACKENDS.register_module()
class _GoneBackend(LocalVisBackend):
    """A tracking server that can no longer be reached."""

    def add_image(self, *args: Any, **kwargs: Any) -> None:
        raise ConnectionError('no route to host')


FAULTS = [
    ('server', 'epoch 1 failed, training goes on: ConnectionError: no'),
    ('disk', 'training_images_2.png could not be written'),
    ('attack', 'out of memory'),
]


@pytest.mark.parametrize(('fault', 'said'), FAULTS)
def test_a_failure_is_an_error_and_no_end(
    fault: str, said: str, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    gone = fault == 'server'
    backend = dict(type='_GoneBackend' if gone else 'LocalVisBackend')
    if fault == 'disk':
        monkeypatch.setattr(cv2, 'imwrite', lambda *args: False)
    elif fault == 'attack':
        full = Mock(side_effect=RuntimeError('out of memory'))
        monkeypatch.setattr(TrainingImages, 'of', full)
    visualizer = dict(type='Visualizer', vis_backends=[backend])
    runner, watcher = train(tmp_path, 2, pictures(), visualizer=visualizer)
    assert runner.epoch == 2
    first, second, last = errors(tmp_path)
    assert said in first and 'epoch 2' in second
    assert '2 pictures or curves' in last
    if fault != 'attack':
        assert len(scalars(tmp_path, 'attack_success')) == 2
    assert watcher.modes == [{True}, {True}]
    assert all(p.requires_grad for p in runner.model.parameters())


def test_mlflow_gets_names_of_files(tmp_path: Path) -> None:
    runner = build_digits_runner(
        tmp_path, 10, epochs=1, default_hooks=pictures()
    )
    backend = MLflowVisBackend.__new__(MLflowVisBackend)
    backend._env_initialized, backend._mlflow = True, Mock()
    backend.close = Mock()  # type: ignore[method-assign]
    runner.visualizer._vis_backends = dict(mlflow=backend)
    runner.train()
    shown = [call.args for call in backend._mlflow.log_image.mock_calls]
    assert [name for _, name in shown] == ['training_images_1.png']
    assert not errors(tmp_path)


def _train_distributed(rank: int) -> Any:
    launched = dict(launcher='pytorch', randomness=dict(seed=5))
    weights = []
    for hooks in ({}, pictures()):
        folder = Path(tempfile.mkdtemp())
        runner, _ = train(folder, 3, hooks, **launched)
        assert isinstance(runner.model, AdversarialDistributedDataParallel)
        weights.append(dict(runner.model.state_dict()))
        assert rank or not errors(folder)
    return dict(weights=weights, files=[*files(folder)])


@pytest.mark.slow  # two processes that import everything anew
def test_two_processes_and_one_that_shows(tmp_path: Path) -> None:
    shows, waits = on_two_processes(_train_distributed, tmp_path)
    assert len(shows['files']) == 3 and not waits['files']
    same(*shows['weights'])
    same(*waits['weights'])


def test_nothing_to_show_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            AdversarialVisualizationHook().before_train(runner)

    batch = dict(model=dict(train_attack=dict(bn_mode='batch')))
    runner = build_digits_runner(tmp_path, 10, **batch)
    epochs = runner.train_loop
    AdversarialVisualizationHook().before_train(runner)
    runner._train_loop = IterBasedTrainLoop.__new__(IterBasedTrainLoop)
    AdversarialVisualizationHook(by_epoch=False).before_train(runner)
    refused('by_epoch=False')
    runner._train_loop = epochs
    runner.model = nn.SyncBatchNorm.convert_sync_batchnorm(runner.model)
    refused("bn_mode='batch' with sync_bn")
    module = 'm2at_mm.hooks.adversarial_visualization_hook'
    monkeypatch.setattr(f'{module}.is_model_wrapper', lambda _: True)
    runner.model = BaseDataPreprocessor()  # stands for a sharded model
    refused('spreads a model over processes')
    runner.visualizer._vis_backends = {}
    refused('no vis_backends')
