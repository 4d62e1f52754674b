"""A model and its batches as the attacks of an evaluation see them."""

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from m2at_mm import attacks
from m2at_mm.attacks import Attack, ThreatModel, attack_mode, margin
from m2at_mm.attacks.batch_norm_folding import no_folding
from m2at_mm.attacks.logits import full, logits_of, predicted_labels
from m2at_mm.evaluation.samples import fingerprints
from m2at_mm.evaluation.store import Arrays

T = TypeVar('T')

# By what share of their length logits and gradients may change by rounding,
# also in half precision, and the images whose gradients are compared.
_SAME_LOGITS, _SAME_GRADIENT, _FEW = 0.02, 0.1, 16
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
        #: Images and logits of the last pass for a gradient.
        self.last: tuple[Tensor, Tensor] | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (N, K)."""
        if not images.requires_grad:
            return torch.as_tensor(logits_of(self.model, images))
        seen = images.view_as(images)
        seen.register_hook(lambda grad: grad.nan_to_num(0.0, 0.0, 0.0))
        logits: Tensor = logits_of(self.model, seen)
        if not logits.requires_grad:
            logits = logits + 0 * images.sum()
        self.last = images.detach(), logits.detach()
        return logits

    def was_itself(self) -> bool:
        """Whether the last attack saw the model that predicts.

        Attacks compute it by faster ways, like folded batch norms. Their last
        logits, and gradients of a few images, are compared with its own.
        """
        if self.last is None:
            return True
        (images, seen), self.last = self.last, None
        with torch.no_grad():
            own = logits_of(self.model, images)
            if not _agree(seen, own, _SAME_LOGITS):
                # Models that never answer twice the same have no faster way.
                return not torch.equal(own, logits_of(self.model, images))
        few, labels = images[:_FEW], own[:_FEW].argmax(1)
        plain = margin_gradient(self.model, few, labels)[1]
        with attack_mode(self.model, images=few):
            # The first pass is plain in any case.
            for _ in range(2):
                faster = margin_gradient(self.model, few, labels)[1]
        return _agree(faster, plain, _SAME_GRADIENT)


def _agree(one: Tensor, other: Tensor, share: float) -> bool:
    """Whether two tensors differ by less than a share of their length."""
    one, other = (x.double().nan_to_num(0.0, 0.0, 0.0) for x in (one, other))
    return bool((one - other).norm() <= share * other.norm())


def margin_gradient(
    model: nn.Module, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """The margin, shape (N, ), and its gradient, shape (N, C, H, W)."""
    with attack_mode(model):
        leaf = images.detach().clone().requires_grad_(True)
        losses = margin(logits_of(model, leaf).float(), labels)
        gradient = torch.zeros_like(images)
        if losses.requires_grad:
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), gradient


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
    ``outside``, ``content`` and ``unfolded``, whether a faster way to compute
    the model misled the attack, which was repeated without; all of shape
    (N, ). ``seconds`` are of shape (1, ).
    """

    def predict(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        unfolded = torch.zeros_like(labels)
        if attack is not None:
            given = model, images, labels, threat
            images = attack(*given, stop_when_fooled=True)
            if not model.was_itself():
                with no_folding():
                    images = attack(*given, stop_when_fooled=True)
                unfolded += 1
        with torch.no_grad():
            logits = full(logits_of(model.model, images))
        # Wrong labels end the evaluation later, with an error of their own.
        known = labels.clamp(0, logits.shape[1] - 1)
        facts = dict(unfolded=unfolded, predicted=predicted_labels(logits))
        facts['ce'] = attacks.cross_entropy(logits, known)
        facts['margin'] = margin(logits, known)
        return dict(facts, adversarial=images)

    start = time.perf_counter()
    with attacks.own_random_stream(images.device, seed):
        found = run_in_memory(predict, images, labels, len(images))
    adversarial = found.pop('adversarial')
    inside = threat.ball(images).contains(adversarial)
    found |= dict(label=labels, outside=~inside)
    arrays = {name: one.cpu().numpy() for name, one in found.items()}
    arrays['content'] = fingerprints(images)
    arrays['seconds'] = np.array([time.perf_counter() - start])
    return arrays, adversarial


def run_in_memory(
    function: Callable[[Tensor, Tensor], dict[str, Tensor]],
    images: Tensor,
    labels: Tensor,
    batch_size: int,
) -> dict[str, Tensor]:
    """Call a function on batches, halved where a GPU's memory is too small.

    It maps images and labels to named tensors with one entry per image.

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
        told = f'the GPU has too little memory for {len(batch[0])} images'
        log(f'{told}: going on with {half} at a time')
        found.append(run_in_memory(function, *batch, half))
    return {name: torch.cat([one[name] for one in found]) for name in found[0]}


def with_progress(
    batches: Iterable[T],
    model: nn.Module,
    title: str,
    passes: int | None,
    total: int,
) -> Iterator[T]:
    """Yield batches, and log every 20 seconds how far the work on them is.

    Each of the ``total`` batches makes so many forward passes at most, if
    that is known.
    """
    start = last = time.monotonic()
    done = calls = 0

    def report(*_: object) -> None:
        nonlocal calls, last
        calls += 1
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_MESSAGES:
            last = now
            inside = min(1.0, calls / passes) if passes else 0.0
            share = (done + inside) / total
            told = f'{title}: {100 * share:.0f} %, batch {done + 1} of {total}'
            if share:
                left = round((now - start) * (1 / share - 1))
                told += f', at most {timedelta(seconds=left)} left'
            log(told)

    with model.register_forward_pre_hook(report):
        for batch in batches:
            yield batch
            done, calls = done + 1, 0


def log(message: str) -> None:
    """Write to MMEngine's log."""
    print_log(message, logger='current')
