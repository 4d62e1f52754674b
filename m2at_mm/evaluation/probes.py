"""Measures on a few images whether gradients can be trusted."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from m2at_mm import attacks
from m2at_mm.attacks import PGD, ThreatModel
from m2at_mm.attacks.batch_norm_folding import no_folding
from m2at_mm.attacks.logits import logits_of, predicted_labels
from m2at_mm.evaluation import attacked_model, gradient_probes
from m2at_mm.evaluation.attacked_model import log
from m2at_mm.evaluation.gradient_probes import Columns

#: Images that are probed, at most.
NUM_PROBED = 128
# The radius at which every model must fall (arXiv 1902.06705), and how many
# times the evaluated one it is at least.
_LARGE_EPS = 64 / 255
_LARGE_FACTOR = 4


def probe(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat_model: ThreatModel,
    seed: int = 0,
    batch_size: int = NUM_PROBED,
    fresh: nn.Module | None = None,
    margins: Tensor | None = None,
) -> dict[str, Any]:
    """Measure the figures that :func:`m2at_mm.evaluation.find_alarms` judges.

    The model is in eval mode, and classifies the images, shape (N, C, H, W),
    correctly by the labels, shape (N, ). ``fresh`` is a copy of it that was
    never asked, made now by default, and ``margins``, shape (N, ), are losses
    :func:`m2at_mm.attacks.losses.margin` that were measured long ago.

    Returns:
        dict: ``num_images``, ``num_classes``; ``pass_difference`` and
        ``batch_difference``, the largest change of an image's logits, relative
        to their length, from one forward pass to the next (without and with
        gradients) and from a full to a halved or reversed batch;
        ``memory_difference``, likewise from the fresh copy to the model, and
        ``memory_gradient``, the share of images where their gradients differ;
        ``drift``, the largest change since the given margins, relative to
        their median; ``unchanged_outputs``, the share whose logits at a random
        point of the ball are the same, bit by bit; ``probabilities``, whether
        the outputs are such; ``non_finite_gradients``, the share with a
        gradient, or logits near the image, that are not finite;
        ``vanishing_gradients``, the share where the gradient predicts that
        not even 1000 times the radius reaches the decision boundary; of the
        others, ``gradient_agreement``, the median ratio of finite differences
        along the gradient to its length, and ``gradient_correlation``, of
        finite differences in random directions with the gradient: both 1 if
        it is right; ``realised_at_image``, ``realised_at_random`` and
        ``realised_on_path``, the median ratio of what a step of 0.25/255 up
        the gradient changes to what the gradient says, at the image, at a
        random point of the ball, and where PGD goes; ``realised_long``, the
        smallest of these for 1/255; ``misled``, the share where one of the
        short ones is below 0.3, and ``misled_images``, their number;
        ``gradient_noise_correlation``, the median cosine of gradients that
        are 1/255 apart, where it is smallest; ``saturated_loss``, the share
        where the cross-entropy is exactly 0 in float32; ``median_margin``;
        ``large_eps`` and ``large_eps_correct``, how many images withstand
        PGD-20 on both losses at that radius.
    """
    if fresh is None:
        fresh = unused_copy(model)

    def measure(images: Tensor, labels: Tensor) -> Columns:
        columns: Columns = {}
        for one in (*_MEASURES, partial(_memory, fresh)):
            columns |= one(model, images, labels, threat_model)
        return columns

    # The model as it is: nothing here may depend on a faster way.
    with attacks.own_random_stream(images.device, seed), no_folding():
        given = measure, images, labels, batch_size
        columns = attacked_model.run_in_memory(*given)
        num_classes = logits_of(model, images[:1]).shape[1]
    columns = {name: one.double().cpu() for name, one in columns.items()}
    figures: dict[str, Any] = dict(
        num_images=len(images),
        num_classes=num_classes,
        large_eps=_large_radius(images, threat_model),
    )
    for name in _CHANGES:  # 1 where logits are not a number
        figures[name] = columns[name].nan_to_num(1.0, 1.0).max().item()
    figures |= {name: one(columns).item() for name, one in _FIGURES.items()}
    if margins is not None:
        before = margins.double().cpu()
        drift = (columns['margin'] + before).nan_to_num(0.0, 0.0, 0.0).abs()
        figures['drift'] = float(drift.max() / before.abs().median())
    return figures | gradient_probes.check_gradient(columns)


def unused_copy(model: nn.Module) -> nn.Module:
    """A copy of a model, or the model itself if it can't be copied."""
    try:
        return copy.deepcopy(model)
    except Exception as error:  # a module may hold what cannot be copied
        log(f'no copy of the model is compared with it: {error}')
        return model


@torch.no_grad()
def _outputs(
    model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> Columns:
    first, again = (logits_of(model, images).float() for _ in range(2))
    with attacks.attack_mode(model):
        leaf = images.clone().requires_grad_(True)
        for_gradient = logits_of(model, leaf).detach().float()
    halves = images.tensor_split([max(1, len(images) // 2)])
    halved = [logits_of(model, half).float() for half in halves if len(half)]
    batched = torch.cat(halved)
    reverse = logits_of(model, images.flip(0)).float().flip(0)
    moved = logits_of(model, threat.ball(images).random_start()).float()
    change = partial(_change, first)
    return dict(
        pass_difference=torch.maximum(change(again), change(for_gradient)),
        batch_difference=torch.maximum(change(batched), change(reverse)),
        unchanged=(first == moved).all(1),
        probability=(first >= 0).all(1) & ((first.sum(1) - 1).abs() < 1e-4),
        loss=attacks.cross_entropy(first, labels),
        margin=-attacks.margin(first, labels),
    )


def _change(first: Tensor, other: Tensor) -> Tensor:
    """Change of each image's logits, relative to their length, (N, )."""
    length = first.norm(dim=1).clamp(min=1e-30)
    return torch.as_tensor((first - other).norm(dim=1) / length)


def _memory(
    fresh: nn.Module,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
) -> Columns:
    """Compare the model with one that answers for the first time."""
    points = threat.ball(images).random_start()
    found = []
    for one in (fresh, model):
        with torch.no_grad():
            logits = logits_of(one, points).float()
        given = one, points, labels
        _, gradient = attacked_model.margin_gradient(*given)
        found.append((logits, gradient))
    (logits, gradient), (used_logits, used) = found
    other = (gradient != used).flatten(1).any(1)
    other &= gradient_probes.cosine(gradient, used) < 0.9
    changed = _change(logits, used_logits)
    return dict(memory_difference=changed, memory_gradient=other)


def _large_radius(images: Tensor, threat: ThreatModel) -> float:
    large = _LARGE_FACTOR * threat.eps
    if threat.norm == 'linf':
        return min(1.0, max(_LARGE_EPS, large))
    # As long as the corner of the linf ball, to reach as far.
    return max(float(_LARGE_EPS * images[0].numel() ** 0.5), large)


def _withstanding(
    model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> Columns:
    """Which images withstand PGD-20 on both losses at the large radius."""
    large = threat.with_eps(_large_radius(images, threat))
    withstood = torch.ones_like(labels, dtype=torch.bool)
    for loss in ('ce', 'margin'):
        given = attacked_model.Attackable(model), images, labels, large
        attack = PGD(steps=20, loss=loss)
        adversarial = attack(*given, stop_when_fooled=True)
        with torch.no_grad():
            predicted = predicted_labels(logits_of(model, adversarial))
        withstood &= predicted == labels
    return dict(withstood=withstood)


# What is measured of each image of a batch, in tensors by name: one entry, or
# one row, per image.
_MEASURES = (
    _outputs,
    gradient_probes.gradients,
    _withstanding,
    gradient_probes.realised_steps,
)
# Measured changes, of which the largest is told.
_CHANGES = ('pass_difference', 'batch_difference', 'memory_difference')
# Figures by name, from what was measured of all images, in float64.
_FIGURES: dict[str, Callable[[Columns], Tensor]] = dict(
    memory_gradient=lambda c: c['memory_gradient'].mean(),
    unchanged_outputs=lambda c: c['unchanged'].mean(),
    misled=lambda c: c['misled'].mean(),
    misled_images=lambda c: c['misled'].long().sum(),
    realised_at_image=lambda c: c['realised_short'][:, 0].median(),
    realised_at_random=lambda c: c['realised_short'][:, 1].median(),
    realised_on_path=lambda c: c['realised_short'][:, 2].median(),
    realised_long=lambda c: c['realised_long'].median(0).values.min(),
    gradient_noise_correlation=lambda c: (
        c['noise_correlation'].median(0).values.min()
    ),
    probabilities=lambda c: c['probability'].bool().all(),
    non_finite_gradients=lambda c: (
        gradient_probes.is_broken(c).double().mean()
    ),
    vanishing_gradients=lambda c: c['vanishing'].mean(),
    saturated_loss=lambda c: (c['loss'] == 0).double().mean(),
    median_margin=lambda c: c['margin'].nan_to_num().median(),
    large_eps_correct=lambda c: c['withstood'].long().sum(),
)
