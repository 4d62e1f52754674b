"""In place of `python` in the commands of the documentation.

`python tools/NAME.py ...` runs as it stands, but on a few images and a narrow
network. CONFIG and CHECKPOINT stand for the files of the sandbox.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from tools_support import NARROW

STAND_INS = {'CONFIG': 'config.py', 'CHECKPOINT': 'WORK_DIR/epoch_1.pth'}
FEWER = {'--num-samples': '4', '--num-images': '4', '--rounds': '1'}
LOADERS = {
    'train_dataloader.dataset.indices': 8,
    'train_dataloader.batch_size': 4,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.dataset.indices': 10,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'test_dataloader.num_workers': 0,
    'test_dataloader.persistent_workers': False,
}
# What each tool takes besides what the command says.
NUMBERS = {
    'test': ['--num-samples'],
    'visualize': ['--num-images'],
    'report': ['--num-images'],
    'benchmark': ['--rounds'],
}
OPTIONS = {
    'train': {**NARROW, **LOADERS, 'train_cfg.max_epochs': 1},
    'test': {**NARROW, **LOADERS},
    'visualize': {**NARROW, **LOADERS},
    'benchmark': {**NARROW, **LOADERS, 'train_cfg.max_epochs': 9},
}


def shrink(words: list[str]) -> list[str]:
    """The words of a command on a tool, with a few images."""
    tool = Path(words[0]).stem
    words = [STAND_INS.get(word, word) for word in words]
    for name in NUMBERS.get(tool, []):
        if name in words:
            words[words.index(name) + 1] = FEWER[name]
        else:
            words += [name, FEWER[name]]
    options = [f'{k}={v}' for k, v in OPTIONS.get(tool, {}).items()]
    if options and '--cfg-options' in words:
        place = words.index('--cfg-options') + 1
        return [*words[:place], *options, *words[place:]]
    return [*words, *(['--cfg-options', *options] if options else [])]


if __name__ == '__main__':
    sys.argv = shrink(sys.argv[1:])
    # As for any script: what stands beside it can be imported.
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name='__main__')
