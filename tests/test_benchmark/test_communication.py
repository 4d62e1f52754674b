from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from two_processes import on_two_processes

from m2at_mm.benchmark import time_all_reduce

SECONDS = 0.2


def _measure(rank: int) -> dict[str, Any]:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    model[1].bias.requires_grad_(False)
    exchange, sent = distributed.all_reduce, []

    def slow(tensor: torch.Tensor) -> None:
        tensor += rank + 1
        sent.append(tensor)
        time.sleep(SECONDS)
        exchange(tensor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, 'all_reduce', slow)
        found = time_all_reduce(model, rounds=2)
    # Each round adds (1, 2) and sums over the ranks: 3, then 2 * 3 + 3, ...
    assert all(bool((tensor == 21).all()) for tensor in sent)
    return dict(found, rounds=len(sent))


def test_all_gradients_are_summed(tmp_path: Path) -> None:
    for found in on_two_processes(_measure, tmp_path):
        assert found['bytes'] == 4 * (3 * 5 + 5 + 5 * 2)
        assert found['seconds'] >= SECONDS
        assert found['rounds'] == 3
