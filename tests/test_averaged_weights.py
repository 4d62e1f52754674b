"""Stock EMA and SWA hooks: validated under attack with averaged weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from tools_support import DIGITS

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
    cfg = Config.fromfile(DIGITS)
    backbone = cfg.model.classifier.backbone
    backbone.base_channels = backbone.stem_channels = 8
    cfg.model.classifier.head.in_channels = 64
    cfg.model.train_attack = dict(type='m2at_mm.FGSM')
    # Deterministic, so that it can be computed again.
    cfg.model.eval_attacks = dict(pgd10=dict(type='m2at_mm.FGSM'))
    cfg.train_dataloader.dataset.indices = 128
    cfg.val_dataloader.dataset.indices = 50
    cfg.train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
    cfg.optim_wrapper.type = wrapper
    cfg.default_hooks.ema = average
    cfg.randomness = dict(seed=0)
    cfg.work_dir = str(folder)
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
    pixels = torch.stack([item['inputs'] for item in items])
    images = pixels.float() / 255
    labels = torch.cat([item['data_samples'].gt_label for item in items])
    attack = model.eval_attacks['pgd10']
    adversarial = attack(model, images, labels, model.threat_model)
    with torch.no_grad():
        clean, attacked = (
            model(x).argmax(1) == labels for x in (images, adversarial)
        )
    # An image that is misclassified without attack needs none, though a step
    # away from its label may happen to lead to it.
    robust = clean & attacked
    return (
        100 * clean.float().mean().item(),
        100 * robust.float().mean().item(),
    )


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

    def recorded() -> dict[str, Any]:
        logged.append(run())
        return logged[-1]

    runner.val_loop.run = recorded
    runner.train()
    saved = torch.load(
        (tmp_path / 'last_checkpoint').read_text(), weights_only=True
    )
    average, trained = saved['state_dict'], saved['ema_state_dict']
    name = next(key for key in average if key.endswith('fc.weight'))
    inner = next(key for key in trained if key.endswith('fc.weight'))
    assert not torch.equal(average[name], trained[inner])
    clean, robust = _accuracies(cfg, average)
    assert logged[-1]['robust/clean'] == pytest.approx(clean)
    assert logged[-1]['robust/pgd10'] == pytest.approx(robust)
