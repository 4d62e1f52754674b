"""Batches of an evaluation: how far they are, and how they fit in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from m2at_mm.evaluation.named_attacks import NAMED_ATTACKS

_SECONDS_BETWEEN_MESSAGES = 20.0


def run_in_memory(
    function: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
    images: Tensor,
    labels: Tensor,
) -> tuple[Tensor, ...]:
    """Call a function, in halves where the GPU's memory does not suffice.

    Args:
        function (Callable): From images and labels to tensors with one entry
            per image.
        images (Tensor): Shape (N, C, H, W).
        labels (Tensor): Shape (N, ).

    Returns:
        tuple[Tensor, ...]: What the function returned, joined.

    Raises:
        RuntimeError: Not even one image fits.
    """
    try:
        return function(images, labels)
    except torch.cuda.OutOfMemoryError as error:
        if len(images) == 1:
            raise RuntimeError(
                'the GPU has too little memory for one image under attack. '
                'What is finished is kept: free memory and run the same '
                'command again'
            ) from error
    # Outside of the handler, which holds on to the failed call's tensors.
    torch.cuda.empty_cache()
    half = len(images) // 2
    print_log(
        f'the GPU has too little memory for {len(images)} images: going on '
        f'with {half} at a time',
        logger='current',
    )
    parts = [
        run_in_memory(function, images[part], labels[part])
        for part in (slice(half), slice(half, None))
    ]
    return tuple(torch.cat(pair) for pair in zip(*parts))


class Progress:
    """Tells every 20 seconds how far a stage is, also inside a batch.

    It counts forward passes, of which an attack makes a known number at most:
    the time left is an upper bound where images are fooled early.

    Args:
        model (nn.Module): Whose forward passes are counted.
        title (str): Of the stage, for the messages.
        attack (str): Its name.
        sizes (list[int]): Images of the batches to come.
    """

    def __init__(
        self, model: nn.Module, title: str, attack: str, sizes: list[int]
    ) -> None:
        self._model = model
        self._title = title
        known = NAMED_ATTACKS.get(attack)
        self._passes = known.passes if known else 1
        self._sizes = sizes
        self._done = self._calls = 0

    def __enter__(self) -> Progress:
        self._start = self._last = time.monotonic()
        self._hook = self._model.register_forward_pre_hook(self._count)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hook.remove()

    def finish_batch(self) -> None:
        """A batch is done."""
        self._done += 1
        self._calls = 0
        self._report()

    def _count(self, module: nn.Module, inputs: Any) -> None:
        self._calls += 1
        self._report()

    def _report(self) -> None:
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_MESSAGES:
            return
        self._last = now
        total = sum(self._sizes)
        done = float(sum(self._sizes[: self._done]))
        if self._done < len(self._sizes):
            part = min(1.0, self._calls / self._passes)
            done += part * self._sizes[self._done]
        left = (now - self._start) * (total - done) / max(done, 1e-9)
        minutes, seconds = divmod(round(left), 60)
        print_log(
            f'{self._title}: {100 * done / total:.0f} %, batch '
            f'{min(self._done + 1, len(self._sizes))} of {len(self._sizes)}, '
            f'at most {minutes}:{seconds:02d} left',
            logger='current',
        )
