"""Several training iterations, timed in turns in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner


class Interleaving(Hook):
    """Times the Runner's own iterations, and others between them.

    In each round every method of ours has a block of iterations in the
    Runner, data and hooks included, then every rival has one. So what slows
    the machine down for a while slows all of them. Then it ends the training
    with :class:`Finished`.

    Args:
        methods (Callable): Given the Runner, by name what makes its model
            train with a method; called before each of its blocks.
        rivals (Callable): Given the Runner, by name an iteration.
        rounds (int): That are measured.
        block (int): Iterations of each in a round.
        warmup (int): Rounds before those measured.

    Attributes:
        times (dict[str, list[list[float]]]): By name, the seconds of each
            iteration in each measured round.
        peak_memory (dict[str, int]): On a GPU by name, in bytes, beyond what
            all contestants hold between their blocks (each has weights,
            momenta and a batch).
    """

    #: After all other hooks, whose time counts.
    priority = 'LOWEST'

    class Finished(Exception):  # noqa: N818 (it is no error)
        """All rounds are measured."""

    def __init__(
        self,
        methods: Callable[[Runner], Mapping[str, Callable[[], None]]],
        rivals: Callable[[Runner], Mapping[str, Callable[[], None]]],
        rounds: int = 5,
        block: int = 3,
        warmup: int = 1,
    ) -> None:
        self._get_methods = methods
        self._get_rivals = rivals
        self.block = block
        self.warmup = warmup
        self.rounds = rounds
        self.times: dict[str, list[list[float]]] = {}
        self.peak_memory: dict[str, int] = {}
        self._waiting: list[str] = []
        self._block: list[float] = []
        self._since: float | None = None
        self._round = 0
        self._held = 0

    def before_train(self, runner: Runner) -> None:
        """Prepare all contestants, when the network has its weights."""
        self.methods = self._get_methods(runner)
        self.rivals = self._get_rivals(runner)
        self.times = {name: [] for name in (*self.methods, *self.rivals)}
        self._waiting = list(self.methods)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Start the clock at the first iteration."""
        if self._since is None:
            self._begin()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Note an iteration's time, and go on to the next contestant."""
        assert self._since is not None
        self._block.append(now() - self._since)
        if len(self._block) == self.block:
            self._end(self._waiting.pop(0))
            if not self._waiting:
                self._time_rivals()
                self._round += 1
                if self._round == self.warmup + self.rounds:
                    raise self.Finished
                self._waiting = list(self.methods)
            self._begin()
        self._since = now()

    def _begin(self) -> None:
        self.methods[self._waiting[0]]()
        self._reset_memory()
        self._since = now()

    def _reset_memory(self) -> None:
        if torch.cuda.is_available():
            self._held = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()

    def _time_rivals(self) -> None:
        for name, iterate in self.rivals.items():
            self._reset_memory()
            for _ in range(self.block):
                since = now()
                iterate()
                self._block.append(now() - since)
            self._end(name)

    def _end(self, name: str) -> None:
        if self._round >= self.warmup:
            self.times[name].append(self._block)
        if torch.cuda.is_available():
            used = torch.cuda.max_memory_allocated() - self._held
            self.peak_memory[name] = max(self.peak_memory.get(name, 0), used)
        self._block = []


def now() -> float:
    """Seconds on a steady clock, when all work on a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
