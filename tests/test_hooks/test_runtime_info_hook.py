"""What is logged and saved, read by the host later than by MMEngine."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from digits_runner import quick_cfg, small_digits_config
from mmengine.hooks import LoggerHook
from mmengine.logging import MessageHub
from mmengine.runner import Runner

from m2at_mm.hooks import RuntimeInfoHook
from m2at_mm.runner.plain_content import restore

_TIMES = ('time', 'data_time', 'eta', 'memory')
LOOPS = {
    'epochs': dict(by_epoch=True, max_epochs=2),
    'iterations': dict(by_epoch=False, max_iters=7, val_interval=4),
}


def _curves(hub: Any) -> dict[str, list[float]]:
    return {
        name: buffer.data[0].tolist()
        for name, buffer in hub.log_scalars.items()
        if not name.endswith(_TIMES)
    }


def _train(folder: Path, kind: str, loop: dict[str, Any]) -> dict[str, Any]:
    """Seven iterations, or two epochs of five, with a log after each three.

    Returns:
        dict: All curves, those of a checkpoint, and the logged lines.
    """
    cfg = small_digits_config(folder, 20, batch_size=4, network=quick_cfg)
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
    return dict(
        curves=_curves(runner.message_hub),
        saved=_curves(SimpleNamespace(**saved['message_hub'])),
        lines=[
            {name: line[name] for name in line if not name.endswith(_TIMES)}
            for line in lines
        ],
    )


@pytest.mark.parametrize('loop', LOOPS)
def test_all_is_as_with_the_stock_hook(loop: str, tmp_path: Path) -> None:
    stock, ours = (
        _train(tmp_path / kind.replace('.', '-'), kind, LOOPS[loop])
        for kind in ('RuntimeInfoHook', 'm2at_mm.RuntimeInfoHook')
    )
    assert ours == stock
    assert len(ours['curves']['train/loss']) >= 7
    assert len(ours['saved']['train/loss']) == 4


def _runner(interval: int) -> Any:
    return SimpleNamespace(
        hooks=[LoggerHook(interval=interval)],
        train_dataloader=range(100),
        message_hub=MessageHub('test_runtime_info_hook'),
    )


def test_values_are_those_of_their_iteration() -> None:
    hook, runner = RuntimeInfoHook(), _runner(interval=4)
    loss = torch.zeros(1)
    for index in range(4):
        loss += 1  # in place, as a CUDA graph writes
        values = dict(loss=loss, share=torch.tensor(0.1 * index), steps=index)
        hook.after_train_iter(runner, index, outputs=values)
    found = _curves(runner.message_hub)
    assert found['train/loss'] == [1, 2, 3, 4]
    assert found['train/steps'] == [0, 1, 2, 3]
    assert np.allclose(found['train/share'], [0.0, 0.1, 0.2, 0.3])
