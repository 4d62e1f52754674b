"""Configs that go on where a run was interrupted."""

from __future__ import annotations

import os
from pathlib import Path

from mmengine.config import Config


def go_on_inside_epochs(cfg: Config) -> None:
    """Give a config of epochs the loop that goes on in their middle.

    :class:`m2at_mm.ResumableEpochTrainLoop` is MMEngine's own loop but for
    that. A loop that the config names by its type stays.

    Args:
        cfg (Config): Of a training, changed in place.
    """
    loop = cfg.get('train_cfg')
    if loop is not None and loop.get('by_epoch') and 'type' not in loop:
        del loop['by_epoch']
        loop.type = 'm2at_mm.ResumableEpochTrainLoop'


def go_on_after_restart(cfg: Config) -> None:
    """Resume from the work dir where torchrun has restarted the processes.

    So ``torchrun --max-restarts 3 tools/train.py CONFIG`` goes on by itself
    when a process has died. Before the first checkpoint it begins anew.

    Args:
        cfg (Config): Of a training, changed in place.
    """
    restarts = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', '0'))
    if restarts and (Path(cfg.work_dir) / 'last_checkpoint').is_file():
        cfg.resume, cfg.load_from = True, None
