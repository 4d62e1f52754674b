from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config

from m2at_mm.runner.resuming import go_on_after_restart, go_on_inside_epochs

OURS = 'm2at_mm.ResumableEpochTrainLoop'


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        (
            dict(by_epoch=True, max_epochs=3, val_interval=2),
            dict(type=OURS, max_epochs=3, val_interval=2),
        ),
        (dict(by_epoch=False, max_iters=9), dict(by_epoch=False, max_iters=9)),
        (
            dict(type='EpochBasedTrainLoop', max_epochs=3),
            dict(type='EpochBasedTrainLoop', max_epochs=3),
        ),
    ],
)
def test_epochs_get_the_loop(given: dict, expected: dict) -> None:
    cfg = Config(dict(train_cfg=given))
    go_on_inside_epochs(cfg)
    assert cfg.train_cfg.to_dict() == expected


@pytest.mark.parametrize('restarts', [None, '0', '2'])
@pytest.mark.parametrize('saved', [False, True])
def test_resumes_after_a_restart(
    restarts: str,
    saved: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv('TORCHELASTIC_RESTART_COUNT', raising=False)
    if restarts is not None:
        monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', restarts)
    if saved:
        (tmp_path / 'last_checkpoint').write_text('epoch_1.pth')
    cfg = Config(
        dict(work_dir=str(tmp_path), resume=False, load_from='stock.pth')
    )
    go_on_after_restart(cfg)
    goes_on = restarts == '2' and saved
    assert (cfg.resume, cfg.load_from) == (
        (True, None) if goes_on else (False, 'stock.pth')
    )
