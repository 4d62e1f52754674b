"""Random draws that leave other draws as they were."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_random_stream(
    device: torch.device, seed: int | None = None
) -> Iterator[None]:
    """Keep draws on CPU and device apart; without a seed they go on inside."""
    devices = [device] if device.type == 'cuda' else []
    with torch.random.fork_rng(devices=devices):
        if seed is not None:
            torch.manual_seed(seed)
        yield
