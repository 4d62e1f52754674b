"""Hooks that watch a training, and the images that are watched."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import digits_runner as runs
import numpy as np
import pytest
import torch
from digits_runner import build_digits_runner, log_of, quick_cfg
from mmengine.hooks import LoggerHook
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from pytest import MonkeyPatch

from m2at_mm.evaluation import RobustAccuracy
from m2at_mm.evaluation.samples import spread_order
from m2at_mm.hooks import RuntimeInfoHook
from m2at_mm.hooks.watched_images import watched_batches
from m2at_mm.runner.process_state import restore

_TIMES = ('time', 'data_time', 'eta', 'memory')
LOOPS: dict[str, Any] = dict(epochs=dict(by_epoch=True, max_epochs=2))
LOOPS['iterations'] = dict(by_epoch=False, max_iters=7, val_interval=4)


def _curves(hub: Any) -> dict[str, list[float]]:
    kept = [name for name in hub.log_scalars if not name.endswith(_TIMES)]
    return {name: hub.log_scalars[name].data[0].tolist() for name in kept}


def _watched(folder: Path, kind: str, loop: dict[str, Any]) -> dict[str, Any]:
    """Seven iterations, or two epochs of five, with a log after each three.

    Returns:
        dict: All curves, those of a checkpoint, and the logged lines.
    """
    cfg = runs.small_digits_config(folder, 20, batch_size=4, network=quick_cfg)
    saves = dict(by_epoch=False, interval=4, max_keep_ckpts=-1)
    hooks = dict(runtime_info=dict(type=kind), logger=dict(interval=3))
    hooks['checkpoint'] = dict(saves, published_keys=None)
    cfg.merge_from_dict(dict(default_hooks=hooks))
    cfg.log_processor = dict(by_epoch=loop['by_epoch'])
    cfg.train_cfg, cfg.randomness = dict(loop), dict(seed=0)
    runner = Runner.from_cfg(cfg)
    runner.train()
    saved = torch.load(folder / 'iter_4.pth', weights_only=True)
    restore(saved)
    (file,) = folder.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    kept = [{k: d[k] for k in d if not k.endswith(_TIMES)} for d in lines]
    restored = _curves(SimpleNamespace(**saved['message_hub']))
    return dict(curves=_curves(runner.message_hub), saved=restored, lines=kept)


@pytest.mark.parametrize('loop', LOOPS)
def test_all_is_as_with_the_stock_hook(loop: str, tmp_path: Path) -> None:
    stock = _watched(tmp_path / 'stock', 'RuntimeInfoHook', LOOPS[loop])
    ours = _watched(tmp_path / 'ours', 'm2at_mm.RuntimeInfoHook', LOOPS[loop])
    assert ours == stock
    assert len(ours['curves']['train/loss']) >= 7
    assert len(ours['saved']['train/loss']) == 4


def test_values_are_those_of_their_iteration() -> None:
    runner: Any = SimpleNamespace(hooks=[LoggerHook(interval=4)])
    runner.message_hub = MessageHub('test_runtime_info_hook')
    runner.train_dataloader, hook = range(100), RuntimeInfoHook()
    loss = torch.zeros(1)
    for index in range(4):
        loss += 1  # in place, as a CUDA graph writes
        values = dict(loss=loss, share=torch.tensor(0.1 * index), steps=index)
        hook.after_train_iter(runner, index, outputs=values)
    found = _curves(runner.message_hub)
    assert found['train/loss'] == [1, 2, 3, 4]
    assert found['train/steps'] == [0, 1, 2, 3]
    assert np.allclose(found['train/share'], [0.0, 0.1, 0.2, 0.3])


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: MonkeyPatch) -> Callable[..., str]:
    """Function of the validations' figures: the log's line on a training."""

    def line(
        *figures: float,
        max_loss: float = 2.0,
        last: int = 0,
        kind: str = 'PGDAT',
    ) -> str:
        found = [dict(clean=90.0, pgd10=figure) for figure in figures]
        compute = Mock(side_effect=found)
        monkeypatch.setattr(RobustAccuracy, 'compute_metrics', compute)
        hook = dict(type='m2at_mm.RobustOverfittingHook', max_loss=max_loss)
        settings: dict = dict(epochs=last or len(figures), network=quick_cfg)
        settings['default_hooks'] = dict(overfitting=hook)
        method = dict(type=f'm2at_mm.{kind}', _delete_=True)
        settings['model'] = dict(method=method)
        runner = build_digits_runner(tmp_path, 10, **settings)
        runner._resume = bool(last)
        runner.train()
        lines = log_of(tmp_path).splitlines()
        return ''.join(one for one in lines if 'robust/pgd10: best' in one)

    return line


LOST = (
    'best 45.0 % after epoch 2, last 42.0 % after epoch 3. '
    '3.0 points were lost'
)


COURSES = [
    ([30.0, 45.0, 42.0], 2.0, 'WARNING', LOST),
    ([30.0, 45.0, 44.0], 2.0, 'INFO', 'last 44.0 % after epoch 3'),
    ([45.0, 35.0], 10.0, 'INFO', 'last 35.0 % after epoch 2'),
    ([50.0], 2.0, '', ''),  # no comparison
]


@pytest.mark.parametrize(('figures', 'max_loss', 'level', 'said'), COURSES)
def test_a_loss_is_a_warning_and_noise_is_not(
    figures: list, max_loss: float, level: str, said: str, trained: Any
) -> None:
    line = trained(*figures, max_loss=max_loss)
    assert level in line and said in line and bool(line) == bool(said)
    assert ('lost' in line) == (level == 'WARNING')


def test_guessing_is_told_and_standard_training_is_not(trained: Any) -> None:
    line = trained(12.0, 0.0)
    assert 'WARNING' in line and 'no better than guessing, 10.0 %' in line
    assert 'lost' not in line
    line = trained(60.0, 0.0, kind='Standard')
    assert 'INFO' in line and 'last 0.0 %' in line and 'lost' not in line


def test_validations_before_an_interruption_count(trained: Any) -> None:
    trained(50.0, 40.0)
    # The last checkpoint was saved before its validation, which is repeated.
    line = trained(40.0, 41.0, 42.0, last=4)
    assert 'best 50.0 % after epoch 1, last 42.0 % after epoch 4' in line


def test_the_same_images_spread_over_the_classes(tmp_path: Path) -> None:
    settings = dict(network=quick_cfg, val_dataloader=dict(batch_size=3))
    runner = build_digits_runner(tmp_path, 20, **settings)
    state = torch.get_rng_state()
    batches = watched_batches(runner, 8)
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(labels) for _, labels in batches] == [3, 3, 2]
    ((images, labels),) = watched_batches(runner, 8, least=10)
    assert torch.equal(torch.cat([one for one, _ in batches]), images)
    assert len(labels.unique()) == 8
    dataset = runner.val_loop.dataloader.dataset
    order = spread_order(dataset.get_gt_labels())[:8]
    for k, image, label in zip(order, images, labels):
        sample = dataset[int(k)]
        assert torch.equal(image, sample['inputs'] / 255)
        assert label == sample['data_samples'].gt_label
