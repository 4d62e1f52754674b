"""Processes of a run: their connection, and their restart by torchrun."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import distributed


def connect_processes(launcher: str, dist_cfg: Any = None) -> None:
    """Start the process group where MMEngine's runner could not.

    MMEngine 0.10 calls ``torch.cuda.set_device`` also without a GPU. And
    processes that torchrun has restarted look for the addresses of the dead
    ones (PyTorch 2.11 and 2.14, where the store of the rendezvous is shared).
    ``dist_cfg`` has ``backend`` for GPUs and ``timeout`` in seconds.

    Raises:
        RuntimeError: The launcher needs GPUs, or torchrun's environment.
    """
    on_gpu = torch.cuda.is_available()
    if launcher in ('slurm', 'mpi') and not on_gpu:
        raise RuntimeError(
            f'launcher={launcher!r} gives each process a GPU, but there is '
            'none: on CPUs start torchrun on each node, with '
            "launcher='pytorch'"
        )
    if launcher != 'pytorch' or distributed.is_initialized():
        return
    if on_gpu and not _restarts():
        return
    if 'RANK' not in os.environ:
        raise RuntimeError(
            "launcher='pytorch' needs the environment that torchrun "
            'sets: start with `torchrun --nproc_per_node N tools/...`, '
            "or use launcher='none'"
        )
    settings = dict(dist_cfg or {})
    if on_gpu:
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    waits: dict[str, Any] = {}
    if settings.get('timeout') is not None:
        waits['timeout'] = timedelta(seconds=settings['timeout'])
    # PyTorch documents both names here and marks neither as exported.
    meeting = distributed.rendezvous('env://')  # type: ignore[attr-defined]
    store, rank, world_size = next(meeting)
    distributed.init_process_group(
        settings.get('backend', 'nccl') if on_gpu else 'gloo',
        # What the processes before the restart left there is out of sight.
        store=distributed.PrefixStore(  # type: ignore[attr-defined]
            f'restart_{_restarts()}', store
        ),
        rank=rank,
        world_size=world_size,
        **waits,  # PyTorch 2.1 takes no None
    )


def resume_after_restart(cfg: Config) -> None:
    """Resume from the work dir, if it can, where torchrun has restarted us."""
    if _restarts() and Path(cfg.work_dir, 'last_checkpoint').is_file():
        cfg.resume, cfg.load_from = True, None


def _restarts() -> int:
    return int(os.environ.get('TORCHELASTIC_RESTART_COUNT', '0'))
