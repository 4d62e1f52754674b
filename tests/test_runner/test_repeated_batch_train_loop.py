from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from tools_support import DIGITS

from m2at_mm.runner import RepeatedBatchTrainLoop


def _config(folder: Path, repeats: int) -> Config:
    cfg = Config.fromfile(DIGITS)
    cfg.model.method = dict(type='m2at_mm.FreeAT')
    cfg.model.train_attack = None
    backbone = cfg.model.classifier.backbone
    backbone.base_channels = backbone.stem_channels = 8
    cfg.model.classifier.head.in_channels = 64
    cfg.data_preprocessor.augment = None
    cfg.train_dataloader.dataset.indices = 60
    cfg.train_cfg = dict(
        type='m2at_mm.RepeatedBatchTrainLoop', repeats=repeats, max_epochs=2
    )
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint.pop('save_best', None)
    cfg.work_dir = str(folder)
    return cfg


def test_each_batch_is_trained_on_in_a_row(tmp_path: Path) -> None:
    runner = Runner.from_cfg(_config(tmp_path, 3))
    seen: list[torch.Tensor] = []
    step = runner.model.train_step

    def recorded(data: dict, optim_wrapper: object) -> dict:
        seen.append(torch.stack(list(data['inputs'])).float())
        return step(data, optim_wrapper)

    runner.model.train_step = recorded
    runner.train()
    batches = -(-60 // 32)
    assert runner.train_loop.max_iters == 2 * 3 * batches
    assert len(seen) == runner.train_loop.iter == 2 * 3 * batches
    for start in range(0, len(seen), 3):
        assert torch.equal(seen[start], seen[start + 1])
        assert torch.equal(seen[start], seen[start + 2])
    assert not torch.equal(seen[0], seen[6])


def test_repetitions_are_not_cropped_anew(tmp_path: Path) -> None:
    cfg = _config(tmp_path, 3)
    cfg.data_preprocessor.augment = dict(crop_padding=4)
    with pytest.raises(ValueError, match=r'augment would crop .* to None'):
        Runner.from_cfg(cfg).train()


@pytest.mark.parametrize('repeats', [0, 1.5])
def test_wrong_repeats(repeats: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f'repeats={repeats}'):
        RepeatedBatchTrainLoop(None, None, repeats=repeats, max_epochs=1)
