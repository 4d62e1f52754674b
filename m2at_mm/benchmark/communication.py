"""What the processes of a training send each other."""

from __future__ import annotations

from statistics import median
from typing import Any

import torch
from torch import distributed, nn

from m2at_mm.benchmark.interleaving import now


def time_all_reduce(model: nn.Module, rounds: int) -> dict[str, Any]:
    """Time the exchange of an iteration's gradients, with nothing beside it.

    In a training part of it hides behind the backward pass, so this is the
    most that it costs where the processes arrive together.

    Args:
        model (nn.Module): Of a process group; each process calls this.
        rounds (int): That are measured, after one that is not.

    Returns:
        dict: ``bytes`` of one process's gradients, and ``seconds`` to sum
        them, the median of the rounds.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.cat([torch.zeros_like(p).flatten() for p in weights])
    times = []
    for _ in range(rounds + 1):
        distributed.barrier()
        since = now()
        distributed.all_reduce(gradients)
        times.append(now() - since)
    size = gradients.numel() * gradients.element_size()
    return dict(bytes=size, seconds=median(times[1:]))
