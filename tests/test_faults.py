"""Trainings in which something dies."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from digits_runner import build_digits_runner
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS


@TRANSFORMS.register_module(force=True)
class Die(BaseTransform):
    """Kills the process that reads a certain image, as a system would."""

    def transform(self, results: dict) -> Any:
        if results['sample_idx'] == 15:
            os.kill(os.getpid(), signal.SIGKILL)
        return results


def test_a_killed_worker_ends_training(tmp_path: Path) -> None:
    pipeline = [dict(type='mmengine.Die'), dict(type='PackInputs')]
    dataset = dict(pipeline=pipeline, whole_batches=False)
    loader = dict(num_workers=1, batch_size=4, dataset=dataset)
    runner = build_digits_runner(tmp_path, 20, train_dataloader=loader)
    # Which of the two depends on who notices first.
    ends = r'DataLoader worker.*(killed|exited unexpectedly)'
    with pytest.raises(RuntimeError, match=ends):
        runner.train()
