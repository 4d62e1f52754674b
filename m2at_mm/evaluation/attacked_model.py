"""A model and its batches as the attacks of an evaluation see them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from m2at_mm.attacks import ThreatModel, own_random_stream
from m2at_mm.attacks.base import Attack
from m2at_mm.attacks.logits import full, logits_of, predicted_labels
from m2at_mm.attacks.losses import cross_entropy, margin
from m2at_mm.evaluation.samples import fingerprints
from m2at_mm.evaluation.store import Arrays

Batch = TypeVar('Batch')

_SECONDS_BETWEEN_MESSAGES = 20.0


class Attackable(nn.Module):
    """A model whose input always has a finite gradient.

    An attack on a model that detaches its input, like one that rounds to
    integers, would end in an error of autograd, and one not-a-number would
    spoil its image. Here such a gradient is zero: the attack runs and fails,
    and an alarm tells why. Logits are not changed.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (N, K)."""
        seen = images
        if images.requires_grad:
            seen = images.view_as(images)
            seen.register_hook(lambda grad: grad.nan_to_num(0.0, 0.0, 0.0))
        logits: Tensor = logits_of(self.model, seen)
        if images.requires_grad and not logits.requires_grad:
            logits = logits + 0 * images.sum()
        return logits


def attack_batch(
    model: Attackable,
    attack: Attack | None,
    threat: ThreatModel,
    images: Tensor,
    labels: Tensor,
    seed: int,
) -> tuple[Arrays, Tensor]:
    """Attack a batch; facts of each image, and the adversarial images.

    The facts are ``label``, ``predicted``, the losses ``ce`` and ``margin``,
    ``outside`` and ``content``, of shape (N, ), and ``seconds`` of shape
    (1, ).
    """

    def predict(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if attack is not None:
            images = attack(
                model, images, labels, threat, stop_when_fooled=True
            )
        with torch.no_grad():
            logits = full(logits_of(model.model, images))
        # Wrong labels end the evaluation later, with an error of their own.
        known = labels.clamp(0, logits.shape[1] - 1)
        return dict(
            adversarial=images,
            predicted=predicted_labels(logits),
            ce=cross_entropy(logits, known),
            margin=margin(logits, known),
        )

    start = time.perf_counter()
    with own_random_stream(images.device, seed):
        found = run_in_memory(predict, images, labels, len(images))
    inside = threat.ball(images).contains(found['adversarial'])
    arrays = dict(
        label=labels.cpu().numpy(),
        **{n: found[n].cpu().numpy() for n in ('predicted', 'ce', 'margin')},
        outside=(~inside).cpu().numpy(),
        content=fingerprints(images),
        seconds=np.array([time.perf_counter() - start]),
    )
    return arrays, found['adversarial']


def run_in_memory(
    function: Callable[[Tensor, Tensor], dict[str, Tensor]],
    images: Tensor,
    labels: Tensor,
    batch_size: int,
) -> dict[str, Tensor]:
    """Call a function on batches, halved where a GPU's memory is too small.

    It maps images, shape (N, C, H, W), and labels, shape (N, ), to named
    tensors with one entry per image, which are joined.

    Raises:
        RuntimeError: Not even one image fits.
    """
    found = []
    for batch in zip(images.split(batch_size), labels.split(batch_size)):
        half = len(batch[0]) // 2
        try:
            found.append(function(*batch))
            continue
        except torch.cuda.OutOfMemoryError as error:
            if half == 0:
                raise RuntimeError(
                    'the GPU has too little memory for one image under '
                    'attack. What is finished is kept: free memory and run '
                    'the same command again'
                ) from error
        # Outside of the handler, which holds on to the failed call's tensors.
        torch.cuda.empty_cache()
        log(
            f'the GPU has too little memory for {len(batch[0])} images: going '
            f'on with {half} at a time'
        )
        found.append(run_in_memory(function, *batch, half))
    return {name: torch.cat([one[name] for one in found]) for name in found[0]}


def with_progress(
    batches: Iterable[Batch],
    model: nn.Module,
    title: str,
    passes: int,
    total: int,
) -> Iterator[Batch]:
    """Yield batches, and log every 20 seconds how far the work on them is.

    Of the ``total`` batches each makes a known number of forward passes at
    most: the time left is an upper bound where images are fooled early.
    """
    start = last = time.monotonic()
    done = calls = 0

    def report(*_: object) -> None:
        nonlocal calls, last
        calls += 1
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_MESSAGES:
            last = now
            share = (done + min(1.0, calls / passes)) / total
            left = timedelta(seconds=round((now - start) * (1 / share - 1)))
            log(
                f'{title}: {100 * share:.0f} %, batch {done + 1} of {total}, '
                f'at most {left} left'
            )

    with model.register_forward_pre_hook(report):
        for batch in batches:
            yield batch
            done, calls = done + 1, 0


def log(message: str) -> None:
    """Write to MMEngine's log."""
    print_log(message, logger='current')
