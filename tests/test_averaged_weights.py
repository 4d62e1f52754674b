"""Stock EMA and SWA hooks: validated under attack with averaged weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from digits_runner import quick_cfg, small_digits_config
from mmengine.config import Config
from mmengine.runner import Runner

from m2at_mm.datasets import Digits
from m2at_mm.registry import MODELS

AVERAGES = {
    'ema': dict(type='EMAHook', momentum=0.3, update_buffers=True),
    'swa': dict(
        type='EMAHook',
        ema_type='StochasticWeightAverage',
        update_buffers=True,
    ),
}


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


def _accuracies(cfg: Config, weights: dict) -> tuple[float, float]:
    """Clean and under FGSM, of plain weights without any hook."""
    model = MODELS.build(
        dict(cfg.model, data_preprocessor=cfg.data_preprocessor)
    )
    model.load_state_dict(weights)
    model.eval()
    dataset = Digits(
        split='val', pipeline=[dict(type='PackInputs')], indices=50
    )
    items = [dataset[n] for n in range(50)]
    images = torch.stack([item['inputs'] for item in items]).float() / 255
    labels = torch.cat([item['data_samples'].gt_label for item in items])
    attack = model.eval_attacks['pgd10']
    adversarial = attack(model, images, labels, model.threat_model)
    with torch.no_grad():
        clean, attacked = (
            model(x).argmax(1) == labels for x in (images, adversarial)
        )
    # An image that is misclassified without attack needs none, though a step
    # away from its label may happen to lead to it.
    right = torch.stack([clean, clean & attacked]).float().mean(1)
    return tuple((100 * right).tolist())


@pytest.mark.parametrize('kind', AVERAGES)
@pytest.mark.parametrize(
    'wrapper', ['OptimWrapper', 'm2at_mm.AWPOptimWrapper']
)
def test_validation_and_checkpoint_use_the_average(
    kind: str, wrapper: str, tmp_path: Path
) -> None:
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
    clean, robust = _accuracies(cfg, average)
    assert logged[-1]['robust/clean'] == pytest.approx(clean)
    assert logged[-1]['robust/pgd10'] == pytest.approx(robust)
