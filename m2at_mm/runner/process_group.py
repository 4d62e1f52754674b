"""The connection between the processes of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from torch import distributed


def connect_processes(
    launcher: str, dist_cfg: Mapping[str, Any] | None = None
) -> None:
    """Start the process group where MMEngine's runner could not.

    MMEngine 0.10 calls ``torch.cuda.set_device`` also on a machine without a
    GPU. And where torchrun has restarted its processes, PyTorch lets them
    look for the addresses of the dead ones (2.11 and 2.14 do, where the store
    of the rendezvous is shared). In both cases the group is started here;
    otherwise, or if it is there already, this does nothing and MMEngine
    starts it as usual.

    Args:
        launcher (str): The ``--launcher`` of the tools.
        dist_cfg (Mapping, optional): ``env_cfg.dist_cfg`` of the config: the
            ``backend`` on GPUs, ``'nccl'`` without one, and ``timeout``,
            seconds that a process waits for another. Defaults to None.

    Raises:
        RuntimeError: The launcher needs GPUs, or torchrun's environment, and
            there are none.
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
    restarts = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', '0'))
    if on_gpu and not restarts:
        return
    if 'RANK' not in os.environ:
        raise RuntimeError(
            "launcher='pytorch' needs the environment that torchrun "
            'sets: start with `torchrun --nproc_per_node N tools/...`, '
            "or use launcher='none'"
        )
    settings = dict(dist_cfg or {})
    backend = 'gloo'
    if on_gpu:
        backend = settings.get('backend', 'nccl')
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    waits = settings.get('timeout')
    # PyTorch documents both names here and marks neither as exported.
    meeting = distributed.rendezvous('env://')  # type: ignore[attr-defined]
    store, rank, world_size = next(meeting)
    prefixed = distributed.PrefixStore(  # type: ignore[attr-defined]
        # What the processes before the restart left there is out of sight.
        f'restart_{restarts}',
        store,
    )
    distributed.init_process_group(
        backend,
        store=prefixed,
        rank=rank,
        world_size=world_size,
        timeout=None if waits is None else timedelta(seconds=waits),
    )
