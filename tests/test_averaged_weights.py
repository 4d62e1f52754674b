"""Stock EMA and SWA hooks: validated under attack with averaged weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from digits_runner import quick_cfg, small_digits_config
from mmengine.config import Config
from mmengine.runner import Runner

EMA = dict(type='EMAHook', update_buffers=True)
AVERAGES = {
    'ema': dict(EMA, momentum=0.3),
    'swa': dict(EMA, ema_type='StochasticWeightAverage'),
    'ours': dict(type='m2at_mm.AveragedWeightsHook'),
}
WRAPPERS = ['OptimWrapper', 'm2at_mm.AWPOptimWrapper']


def _config(folder: Path, average: dict, wrapper: str) -> Config:
    cfg = small_digits_config(folder, 50, 32, network=quick_cfg)
    # Deterministic, so that it can be computed again.
    cfg.model.train_attack = dict(type='m2at_mm.FGSM')
    cfg.model.eval_attacks = dict(pgd10=dict(type='m2at_mm.FGSM'))
    cfg.train_dataloader.dataset.indices = 128
    cfg.train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
    cfg.optim_wrapper.type = wrapper
    cfg.default_hooks.ema = average
    cfg.randomness = dict(seed=0)
    return cfg


@pytest.mark.parametrize('kind', AVERAGES)
@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_average_is_validated(kind: str, wrapper: str, tmp_path: Path) -> None:
    cfg = _config(tmp_path, AVERAGES[kind], wrapper)
    runner = Runner.from_cfg(cfg)
    logged: list[dict[str, Any]] = []
    run = runner.val_loop.run
    runner.val_loop.run = lambda: logged.append(run())
    runner.train()
    path = (tmp_path / 'last_checkpoint').read_text()
    saved = torch.load(path, weights_only=True)
    average, trained = saved['state_dict'], saved['ema_state_dict']
    name = next(key for key in average if key.endswith('fc.weight'))
    inner = next(key for key in trained if key.endswith('fc.weight'))
    assert not torch.equal(average[name], trained[inner])
    # Once more, of these weights and without any hook.
    cfg = _config(tmp_path / 'again', AVERAGES[kind], wrapper)
    del cfg.default_hooks.ema
    other = Runner.from_cfg(cfg)
    other.model.load_state_dict(average)
    found = other.val()
    for figure in ('robust/clean', 'robust/pgd10'):
        assert logged[-1][figure] == pytest.approx(found[figure])
