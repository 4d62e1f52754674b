"""Times training iterations in turns, and the exchange of gradients."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import distributed, nn


class Finished(Exception):  # noqa: N818 (it is no error)
    """Ends a training whose iterations are all measured."""


class Interleaving(Hook):
    """Times the Runner's own iterations, and others between them.

    In each round every method of ours has a block of iterations in the
    Runner, data and hooks included, then every rival has one. So what slows
    the machine down for a while slows all of them. After a round to warm up
    and those that are measured, it raises :class:`Finished`.

    Args:
        methods (Callable): Given the Runner, functions by name that make its
            model train with a method; called before each of its blocks.
        rivals (Callable): Given the Runner, iterations by name.
        rounds (int): Number of measured rounds.
        block (int): Iterations of each contestant in a round.

    Attributes:
        times (dict[str, list[list[float]]]): By name, the seconds of each
            iteration in each measured round.
        peak_memory (dict[str, int]): On a GPU by name, in bytes, beyond what
            all contestants hold between their blocks (each has weights,
            momenta and a batch).
    """

    #: After all other hooks, whose time counts.
    priority = 'LOWEST'

    def __init__(
        self,
        methods: Callable[[Runner], Mapping[str, Callable[[], Any]]],
        rivals: Callable[[Runner], Mapping[str, Callable[[], Any]]],
        rounds: int = 5,
        block: int = 3,
    ) -> None:
        self._get_contestants = methods, rivals
        self.rounds = rounds
        self.block = block
        self.times: dict[str, list[list[float]]] = {}
        self.peak_memory: dict[str, int] = {}

    def before_train(self, runner: Runner) -> None:
        """Prepare all contestants, now that the network has its weights."""
        self.methods, self.rivals = (
            get(runner) for get in self._get_contestants
        )
        self._turns = self._take_turns()
        next(self._turns)

    def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
        """Note an iteration's time, and go on to the next contestant."""
        if next(self._turns, Finished) is Finished:
            raise Finished

    def _take_turns(self) -> Iterator[None]:
        """Measure everything; each yield is an iteration of the Runner."""
        self.times = {name: [] for name in (*self.methods, *self.rivals)}
        for number in range(1 + self.rounds):
            for name, rounds in self.times.items():
                if name in self.methods:
                    self.methods[name]()
                held = _reset_peak_memory()
                block: list[float] = []
                since = now()
                while len(block) < self.block:
                    if name in self.methods:
                        yield
                    else:
                        self.rivals[name]()
                    block.append(now() - since)
                    since = now()
                if number:  # the first round warms up
                    rounds.append(block)
                if held is not None:
                    used = torch.cuda.max_memory_allocated() - held
                    before = self.peak_memory.get(name, 0)
                    self.peak_memory[name] = max(before, used)


def _reset_peak_memory() -> int | None:
    """What is allocated on the GPU in bytes, None without one."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def now() -> float:
    """Seconds on a steady clock, when all work on a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def time_all_reduce(model: nn.Module, rounds: int) -> dict[str, Any]:
    """Time the exchange of an iteration's gradients, with nothing beside it.

    Each process of the group calls this. In a training part of the exchange
    hides behind the backward pass, so this is the most that it costs where
    the processes arrive together.

    Returns:
        dict: ``bytes`` of one process's gradients, and ``seconds`` to sum
        them, the median of the rounds after one to warm up.
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
