"""A function on two processes that gloo connects."""

import multiprocessing as stock
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import init_default_scope
from torch import distributed, multiprocessing

# Imported once, by the process that all others are forked from.
stock.set_forkserver_preload(['mmpretrain.models', 'm2at_mm.hooks'])


def _run(rank: int, folder: str, work: Callable[[int], Any]) -> None:
    torch.set_num_threads(1)
    init_default_scope('mmpretrain')
    # As torchrun sets it.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    store, ranks = f'file://{folder}/store', dict(rank=rank, world_size=2)
    distributed.init_process_group('gloo', init_method=store, **ranks)
    # The group lives as long as its process: PyTorch 2.1 to 2.4 may hang where
    # gloo's is destroyed, whose threads wait for Python's lock.
    torch.save(work(rank), Path(folder, f'rank{rank}.pth'))


def on_two_processes(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What ``work`` returns for rank 0 and rank 1, one thread each.

    Args:
        work (Callable): A function of a module, as it is sent by its name.
        folder (Path): An empty one.
    """
    multiprocessing.start_processes(
        _run, (str(folder), work), nprocs=2, start_method='forkserver'
    )
    files = [folder / f'rank{rank}.pth' for rank in (0, 1)]
    return [torch.load(file, weights_only=True) for file in files]
