"""Batches of an evaluation: how far they are, and how they fit in memory."""

from __future__ import annotations

import time
from typing import Callable

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

_SECONDS_BETWEEN_MESSAGES = 5.0


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
    """Tells every few seconds how far a stage is.

    Args:
        name (str): Of the stage.
        num_batches (int): How many batches it has.
    """

    def __init__(self, name: str, num_batches: int) -> None:
        self.name = name
        self.total = num_batches
        self.done = self.images = self.right = 0
        self.start = self.last = time.monotonic()

    def step(self, correct: np.ndarray) -> None:
        """Count a batch; ``correct`` tells which images withstood."""
        self.done += 1
        self.images += len(correct)
        self.right += int(correct.sum())
        now = time.monotonic()
        if self.done < self.total:
            if now - self.last < _SECONDS_BETWEEN_MESSAGES:
                return
        elif now - self.start < _SECONDS_BETWEEN_MESSAGES:
            return
        self.last = now
        left = (now - self.start) / self.done * (self.total - self.done)
        minutes, seconds = divmod(round(left), 60)
        print_log(
            f'{self.name}: batch {self.done}/{self.total}, '
            f'{self.right} of {self.images} images withstood, '
            f'{minutes}:{seconds:02d} left',
            logger='current',
        )
