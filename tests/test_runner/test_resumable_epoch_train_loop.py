from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch.utils.data import DataLoader

from m2at_mm.registry import LOOPS


class Recorder:
    """What a loop needs of a runner; notes the batches it trains on."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.hooks: list[str] = []
        self.val_loop = None
        self.visualizer = SimpleNamespace()
        self.optim_wrapper = None
        self.model = self

    def train(self) -> None:
        pass

    def train_step(self, data_batch: Any, optim_wrapper: object) -> None:
        self.batches.append(data_batch.item())

    def call_hook(self, name: str, **_: Any) -> None:
        self.hooks.append(name)


def trained(kind: str, epoch: int, iteration: int, **more: Any) -> Recorder:
    """Two epochs of the batches 0, 1, 2, from a checkpoint on."""
    runner = Recorder()
    loop = LOOPS.build(
        dict(
            type=kind,
            runner=runner,
            dataloader=DataLoader([0, 1, 2]),
            max_epochs=2,
            **more,
        )
    )
    loop._epoch, loop._iter = epoch, iteration
    loop.run()
    return runner


@pytest.mark.parametrize(
    ('epoch', 'iteration', 'batches'),
    [
        (0, 0, [0, 1, 2, 0, 1, 2]),
        (0, 1, [1, 2, 0, 1, 2]),
        (0, 3, [0, 1, 2]),  # saved after the last batch of its epoch
        (1, 3, [0, 1, 2]),  # saved at the end of the epoch
        (1, 5, [2]),
        (2, 6, []),
    ],
)
def test_goes_on_with_the_next_batch(
    epoch: int, iteration: int, batches: list[int]
) -> None:
    runner = trained('m2at_mm.ResumableEpochTrainLoop', epoch, iteration)
    assert runner.batches == batches
    assert runner.hooks.count('after_train_epoch') == 2 - epoch
    assert runner.hooks.count('before_train_iter') == len(batches)


@pytest.mark.parametrize(
    ('epoch', 'iteration', 'batches'),
    [
        (0, 0, [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]),
        (0, 3, [1, 2, 2, 0, 0, 1, 1, 2, 2]),
        (1, 11, [2]),
    ],
)
def test_goes_on_inside_the_repeats_of_a_batch(
    epoch: int, iteration: int, batches: list[int]
) -> None:
    runner = trained(
        'm2at_mm.RepeatedBatchTrainLoop', epoch, iteration, repeats=2
    )
    assert runner.batches == batches
