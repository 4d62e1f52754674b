"""Pictures while training, and a training that they don't change."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest
import torch
from digits_runner import build_digits_runner
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseDataPreprocessor
from mmengine.optim import OptimWrapper
from mmengine.registry import (
    OPTIM_WRAPPERS,
    VISBACKENDS,
    init_default_scope,
)
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.visualization import LocalVisBackend
from PIL import Image
from tiny import build_adversarial, raw_batch
from torch import nn
from two_processes import on_two_processes

from m2at_mm.attacks import own_random_stream
from m2at_mm.datasets import Digits
from m2at_mm.hooks import AdversarialVisualizationHook
from m2at_mm.model_wrappers import AdversarialDistributedDataParallel
from m2at_mm.runner.process_state import random_streams
from m2at_mm.visualization import TrainingImages

# Ten images in batches of five: two iterations an epoch.
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


def train(
    work_dir: Path, epochs: int = 1, hooks: Any = None, **settings: Any
) -> tuple[Runner, Watcher]:
    runner = build_digits_runner(
        work_dir,
        10,
        epochs=epochs,
        default_hooks=hooks or {},
        # Merging takes _delete_ out.
        **copy.deepcopy(dict(SMALL, **settings)),
    )
    watcher = Watcher()
    runner.register_hook(watcher)
    runner.train()
    return runner, watcher


def pictures(**settings: Any) -> dict[str, dict]:
    settings = dict(num_images=6, num_rows=2) | settings
    return dict(
        pictures=dict(type='m2at_mm.AdversarialVisualizationHook', **settings)
    )


def files(work_dir: Path) -> dict[str, Path]:
    return {path.name: path for path in work_dir.rglob('vis_image/*')}


def scalars(work_dir: Path, name: str) -> dict[int, float]:
    """What the local backend was given, by step."""
    (path,) = work_dir.rglob('scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {one['step']: one[name] for one in lines if name in one}


def errors(work_dir: Path) -> list[str]:
    (log,) = work_dir.glob('*/*.log')
    return [one for one in log.read_text().splitlines() if '- ERROR -' in one]


@pytest.mark.parametrize(
    ('settings', 'steps'),
    [
        (dict(interval=2), [4, 8]),
        (dict(interval=3, by_epoch=False), [3, 6]),
    ],
    ids=['epochs', 'iterations'],
)
def test_shows_at_intervals_only(
    settings: dict,
    steps: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    look = TrainingImages.of
    monkeypatch.setattr(
        TrainingImages, 'of', lambda *args: calls.append(1) or look(*args)
    )
    train(tmp_path, 4, pictures(**settings), train_cfg=dict(val_interval=9))
    assert len(calls) == 2
    assert set(files(tmp_path)) == {
        f'training_images_{step}.png' for step in steps
    }
    assert list(scalars(tmp_path, 'attack_success')) == steps
    eps = scalars(tmp_path, 'threat_model.eps')
    assert eps == {step: pytest.approx(32 / 255) for step in steps}
    assert not errors(tmp_path)
    for path in files(tmp_path).values():
        with Image.open(path) as picture:
            assert picture.width > 1000 and picture.height > 300


def test_success_is_of_the_train_attack(tmp_path: Path) -> None:
    runner, _ = train(tmp_path, 1, pictures(num_images=8))
    model = runner.model.eval()
    # The loader's batches are of ten, so one batch of eight.
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))[:8]
    dataset = Digits(split='val', indices=10)
    items = [dataset[int(k)] for k in order]
    pixels = [torch.from_numpy(one['img']).permute(2, 0, 1) for one in items]
    images = torch.stack(pixels) / 255
    labels = torch.tensor([one['gt_label'] for one in items])
    with own_random_stream(images.device, 0):
        attacked = model.train_attack(
            model, images, labels, model.threat_model
        )
    with torch.no_grad():
        clean = model(images).argmax(1) == labels
        robust = model(attacked).argmax(1) == labels
    expected = 100 * (clean & ~robust).float().mean()
    found = scalars(tmp_path, 'attack_success')
    assert found == {2: pytest.approx(float(expected))}


def test_success_counts_what_was_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fooled(self: TrainingImages) -> torch.Tensor:
        return torch.arange(len(self.labels)) == 0

    monkeypatch.setattr(TrainingImages, 'fooled', fooled)
    val = dict(val_dataloader=dict(batch_size=4))
    train(tmp_path, 1, pictures(num_images=10), **val)
    # One of each batch of 4, 4 and 2.
    assert scalars(tmp_path, 'attack_success') == {2: pytest.approx(30.0)}


@OPTIM_WRAPPERS.register_module()
class _CPUAutocast(OptimWrapper):
    """Mixed precision without a GPU."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with torch.autocast('cpu'), super().optim_context(model):
            yield


NO_VALIDATION = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)


@pytest.mark.parametrize(
    ('by_epoch', 'settings'),
    [
        (True, {}),
        (
            False,
            dict(
                model=dict(method=dict(_delete_=True, type='m2at_mm.FreeAT'))
            ),
        ),
        (
            True,
            dict(
                model=dict(
                    train_attack=dict(bn_mode='train'),
                    method=dict(_delete_=True, type='m2at_mm.IAT'),
                )
            ),
        ),
        (False, dict(optim_wrapper=dict(type='_CPUAutocast'))),
        # Training images are read by the hook as well as by the loop.
        (False, NO_VALIDATION),
    ],
    ids=['m2at', 'free-at', 'train mode', 'autocast', 'no validation'],
)
def test_training_is_as_without(
    by_epoch: bool, settings: dict, tmp_path: Path
) -> None:
    found = []
    extra: dict[str, Any] = dict(
        ema=dict(type='EMAHook', momentum=0.5, update_buffers=True)
    )
    if settings is NO_VALIDATION:
        extra['checkpoint'] = dict(save_best=None)
    for name, hook in (('without', {}), ('with', pictures(by_epoch=by_epoch))):
        runner, watcher = train(tmp_path / name, 2, extra | hook, **settings)
        average = runner.hooks[
            [type(one).__name__ for one in runner.hooks].index('EMAHook')
        ].ema_model
        state = dict(runner.model.state_dict())
        state.update({f'ema.{k}': v for k, v in average.state_dict().items()})
        found.append((state, watcher, runner.optim_wrapper.state_dict()))
    (first, one, sgd), (second, other, sgd_too) = found
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    for key, value in sgd['state'].items():
        momentum = sgd_too['state'][key]['momentum_buffer']
        assert torch.equal(value['momentum_buffer'], momentum)
    assert one.modes == other.modes == [{True}, {True}]
    for before, after in zip(one.streams, other.streams):
        assert torch.equal(before.pop('torch'), after.pop('torch'))
        assert before == after
    assert len(files(tmp_path / 'with')) == (2 if by_epoch else 4)
    assert not files(tmp_path / 'without')
    assert not errors(tmp_path / 'with')


def test_a_scheduled_radius_is_logged_once(tmp_path: Path) -> None:
    schedule = dict(
        type='m2at_mm.AttackScheduleHook',
        schedules=[
            dict(
                param='threat_model.eps',
                values=['0/255', '8/255'],
                milestones=[0, 1],
            )
        ],
    )
    logger = dict(interval=1)
    train(tmp_path, 2, pictures() | dict(eps=schedule, logger=logger))
    (path,) = tmp_path.rglob('scalars.json')
    own = [
        line
        for line in map(json.loads, path.read_text().splitlines())
        if 'threat_model.eps' in line and 'loss' not in line
    ]
    assert own == []
    # Also with a radius of nothing there is a picture.
    assert len(files(tmp_path)) == 2 and not errors(tmp_path)


def test_the_network_in_training_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    look = TrainingImages.of

    def spy(model: Any, *batch: Any) -> TrainingImages:
        seen.append((model, model.head.fc.weight.detach().clone()))
        return look(model, *batch)

    monkeypatch.setattr(TrainingImages, 'of', spy)
    ema = dict(ema=dict(type='EMAHook', momentum=0.1))
    runner, _ = train(tmp_path, 1, ema | pictures())
    ((model, weight),) = seen
    assert model is runner.model
    assert torch.equal(weight, runner.model.head.fc.weight)


@VISBACKENDS.register_module()
class _GoneBackend(LocalVisBackend):
    """A tracking server that can no longer be reached."""

    def add_image(self, *args: Any, **kwargs: Any) -> None:
        raise ConnectionError('no route to host')


def test_a_failing_backend_is_an_error_and_no_end(tmp_path: Path) -> None:
    backends = [dict(type='_GoneBackend')]
    runner, _ = train(
        tmp_path,
        2,
        pictures(),
        visualizer=dict(type='Visualizer', vis_backends=backends),
    )
    assert runner.epoch == 2
    first, second, last = errors(tmp_path)
    assert 'epoch 1 failed, training goes on: ConnectionError: no' in first
    assert 'epoch 2' in second
    assert '2 pictures or curves' in last
    assert len(scalars(tmp_path, 'attack_success')) == 2


def test_a_picture_that_was_not_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        cv2, 'imwrite', lambda *args: False
    )  # the disk is full
    runner, _ = train(tmp_path, 1, pictures())
    assert runner.epoch == 1
    assert 'training_images_2.png could not be written' in errors(tmp_path)[0]


def test_an_attack_that_fails_leaves_the_model_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError('out of memory')

    monkeypatch.setattr(TrainingImages, 'of', fail)
    runner, watcher = train(tmp_path, 1, pictures())
    assert 'out of memory' in errors(tmp_path)[0]
    assert watcher.modes == [{True}]
    assert all(p.requires_grad for p in runner.model.parameters())


class _Visualizer:
    """Counts what it is given."""

    def __init__(self) -> None:
        self._vis_backends: dict = dict(none=None)
        self.pictures = 0
        self.values: list[float] = []

    def add_image(self, name: str, image: Any, step: int) -> None:
        self.pictures += 1

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.values.append(value)


def _fake_runner(model: Any) -> Any:
    dataset = Digits(split='val', indices=4)
    dataset.pipeline.transforms.clear()

    def collate(items: list[dict]) -> dict[str, Any]:
        batch = raw_batch(num=len(items))
        for sample, item in zip(batch['data_samples'], items):
            sample.set_gt_label(item['gt_label'])
        return batch

    loader = SimpleNamespace(dataset=dataset, collate_fn=collate, batch_size=4)
    return SimpleNamespace(
        model=model,
        visualizer=_Visualizer(),
        val_loop=SimpleNamespace(dataloader=loader),
        train_loop=None,
        message_hub=MessageHub('fake'),
        logger=logging.getLogger('fake'),
        epoch=0,
        iter=1,
    )


def _train_distributed(rank: int) -> Any:
    init_default_scope('mmpretrain')
    weights = []
    for with_pictures in (False, True):
        model = AdversarialDistributedDataParallel(build_adversarial().train())
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
        runner = _fake_runner(model)
        hook = AdversarialVisualizationHook(num_images=4, num_rows=1)
        torch.manual_seed(5)
        for step in range(3):
            model.train_step(raw_batch(seed=2 * step + rank), wrapper)
            if with_pictures:
                hook.before_train(runner)
                hook.after_train_epoch(runner)
        assert hook._failures == 0
        weights.append([p.detach() for p in model.parameters()])
    shown = runner.visualizer
    return dict(
        weights=weights, pictures=shown.pictures, values=len(shown.values)
    )


@pytest.mark.slow  # two processes that import everything anew
def test_two_processes_and_one_that_shows(tmp_path: Path) -> None:
    found = on_two_processes(_train_distributed, tmp_path)
    assert [one['pictures'] for one in found] == [3, 0]
    assert [one['values'] for one in found] == [6, 0]
    for one in found:
        for without, with_pictures in zip(*one['weights']):
            assert torch.equal(without, with_pictures)


@pytest.mark.parametrize('name', ['interval', 'num_images', 'num_rows'])
@pytest.mark.parametrize('value', [0, 1.5])
def test_wrong_numbers(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f'{name}={value}'):
        AdversarialVisualizationHook(**{name: value})


def test_what_would_show_nothing_is_refused() -> None:
    runner = _fake_runner(build_adversarial())
    runner.visualizer._vis_backends = {}
    with pytest.raises(ValueError, match='no vis_backends'):
        AdversarialVisualizationHook().before_train(runner)
    runner = _fake_runner(build_adversarial())
    runner.train_loop = IterBasedTrainLoop.__new__(IterBasedTrainLoop)
    with pytest.raises(ValueError, match='by_epoch=False'):
        AdversarialVisualizationHook().before_train(runner)
    AdversarialVisualizationHook(by_epoch=False).before_train(runner)


def test_what_would_hang_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    attack = dict(type='m2at_mm.PGD', bn_mode='batch')
    model = build_adversarial(train_attack=attack)
    runner = _fake_runner(model)
    AdversarialVisualizationHook().before_train(runner)
    runner.model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    with pytest.raises(ValueError, match="bn_mode='batch' with sync_bn"):
        AdversarialVisualizationHook().before_train(runner)
    module = 'm2at_mm.hooks.adversarial_visualization_hook'
    monkeypatch.setattr(f'{module}.is_model_wrapper', lambda _: True)
    runner.model = BaseDataPreprocessor()  # stands for a sharded model
    with pytest.raises(ValueError, match='spreads a model over processes'):
        AdversarialVisualizationHook().before_train(runner)
