"""Times what tools/train.py does between PyTorch's import and an iteration.

    python docs/results/start_up.py OUT.json

Run it twice, so that the images are in memory. For docs/performance.md.
"""

# ruff: noqa: E402 (what is timed is the importing)
import time

begin = time.perf_counter()
import torch
import torchvision  # noqa: F401

imported = time.perf_counter()

import json
import runpy
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from mmengine.runner import EpochBasedTrainLoop

CONFIG = 'configs/m2at_resnet18_cifar10.py'


def main() -> None:
    """Start a training, and stop it where it would begin."""
    out = Path(sys.argv[1])

    def stop(loop: Any, index: int, batch: Any) -> NoReturn:
        figures = dict(
            config=CONFIG,
            torch_import_seconds=imported - begin,
            seconds_to_first_iteration=time.perf_counter() - imported,
            torch=torch.__version__,
        )
        out.write_text(json.dumps(figures, indent=1) + '\n')
        sys.exit()

    EpochBasedTrainLoop.run_iter = stop
    with TemporaryDirectory() as folder:
        sys.argv = ['tools/train.py', CONFIG, '--work-dir', folder]
        runpy.run_path('tools/train.py', run_name='__main__')


if __name__ == '__main__':
    main()
