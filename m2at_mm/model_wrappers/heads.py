"""What mmpretrain's classifiers have in common, where they differ."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from mmpretrain.models import VGG, TimmClassifier, heads
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from m2at_mm.attacks.context import attack_mode
from m2at_mm.attacks.logits import logits_of
from m2at_mm.attacks.losses import hard_labels
from m2at_mm.methods import Method


def why_unsupported(head: type) -> str | None:
    """Why a class of heads cannot be attacked, None if it can."""
    if issubclass(head, heads.MultiLabelClsHead):
        return (
            'gives an image several labels, but the attacks and their '
            'accuracy are those of one label per image: give LinearClsHead '
            'where every image has one'
        )
    if issubclass(head, heads.MultiTaskHead):
        return 'has several tasks, but an attack needs one set of classes'
    return None


def count_classes(classifier: nn.Module) -> int | None:
    """The number of a classifier's logits, None if it does not tell."""
    head = getattr(classifier, 'head', None)
    if isinstance(head, heads.VigClsHead):
        return int(head.fc2.out_features)
    if head is not None:
        return getattr(head, 'num_classes', None)
    network = getattr(classifier, 'model', None)  # of timm or Hugging Face
    config = getattr(network, 'config', None)
    labels: int | None = getattr(config, 'num_labels', None)
    return labels or getattr(network, 'num_classes', None)


def needs_plain_layout(classifier: nn.Module) -> bool:
    """Whether a network cannot take images in channels-last layout."""
    # mmpretrain's VGG flattens its features by `view`. And for strided 1x1
    # convolutions whose input channels don't fill a vector (16 floats at
    # most), oneDNN writes the weights' gradient out of bounds on CPUs.
    return any(
        isinstance(module, VGG)
        or (
            isinstance(module, nn.Conv2d)
            and module.kernel_size == (1, 1)
            and module.stride != (1, 1)
            and module.in_channels // module.groups < 16
        )
        for module in classifier.modules()
    )


def classifier_logits(classifier: Any, inputs: Tensor) -> Tensor:
    """The logits that a classifier predicts from, (N, K), in any mode."""
    with _trainable(classifier):
        scores = logits_of(lambda x: classifier(x, mode='tensor'), inputs)
    logits: Tensor = _joined(getattr(classifier, 'head', None), scores)
    return logits


def losses_and_logits(
    classifier: Any, inputs: Tensor, target: Tensor
) -> tuple[dict[str, Tensor], Tensor | None]:
    """The classifier's own losses on normalised images, and the logits.

    The logits, of shape (N, K), are those of the same forward pass, without
    the margin that a loss may add; None if the head is not called. Distilled
    LeViT and EfficientFormer learn from the average of their two heads'.
    """
    num, head = len(inputs), getattr(classifier, 'head', None)
    if num == 1 and _squeezes(classifier, inputs):
        # It loses the batch's dimension. Twice the same image has the same
        # mean loss.
        inputs, target = torch.cat([inputs] * 2), torch.cat([target] * 2)
    samples = as_samples(target)
    losses: dict[str, Tensor]
    with _recorded_logits(classifier) as seen, _trainable(classifier):
        if isinstance(head, heads.EfficientFormerClsHead) and head.dist:
            # Its own loss refuses to.
            features = classifier.extract_feat(inputs)
            losses = heads.ClsHead.loss(head, features, samples)
        else:
            losses = classifier.loss(inputs, samples)
    return losses, seen[0][:num] if seen else None


def _squeezes(classifier: nn.Module, image: Tensor) -> bool:
    with attack_mode(classifier), torch.no_grad():
        scores: Any = classifier(image, mode='tensor')
    return isinstance(scores, Tensor) and scores.ndim == 1


def _joined(head: nn.Module | None, scores: Any) -> Any:
    """One row of logits per image: Conformer's two are added."""
    return sum(scores) if isinstance(head, heads.ConformerHead) else scores


@contextmanager
def _trainable(classifier: nn.Module) -> Iterator[None]:
    """Let a distilled LeViT head give one output in train mode, too."""
    head: Any = getattr(classifier, 'head', None)
    switched = isinstance(head, heads.LeViTClsHead) and head.training
    if switched:
        head.training = False  # of the head alone; its batch norms train on
    try:
        yield
    finally:
        if switched:
            head.training = True


@contextmanager
def _recorded_logits(classifier: nn.Module) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    head = getattr(classifier, 'head', None)

    def note(logits: Any) -> None:
        if isinstance(logits, Tensor) and logits.ndim == 2:
            seen.append(logits)

    def note_output(module: nn.Module, args: Any, kw: Any, out: Any) -> None:
        if len(args) > 1 or kw:
            # Given more than features, like ArcFace's labels, a head gives
            # what its loss needs.
            out = module.forward(args[0]) if args else None
        note(_joined(module, out))

    if head is not None:
        handles = [head.register_forward_hook(note_output, with_kwargs=True)]
    else:  # of timm or Hugging Face
        handles = [
            module.register_forward_pre_hook(lambda _, args: note(*args[:1]))
            for module in loss_modules(classifier)
        ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


class AcceptedTargets(NamedTuple):
    """What every loss module of a classifier takes."""

    #: Labels, int64 of shape (N, ).
    labels: bool
    #: Probabilities of shape (N, K), and their values count.
    scores: bool
    #: Probabilities of shape (N, K) of which only a few are not 0, as Mixup
    #: and CutMix make them of two labels.
    mixtures: bool


def loss_modules(classifier: nn.Module) -> list[nn.Module]:
    """The modules that compute a classifier's losses."""
    named = classifier.named_modules()
    return [m for name, m in named if f'.{name}'.endswith('.loss_module')]


def accepted_targets(
    classifier: nn.Module, num_classes: int | None
) -> AcceptedTargets:
    """What all losses accept; anything if the classes are unknown."""
    if num_classes is None:
        return AcceptedTargets(True, True, True)
    # As mmpretrain's classifiers call it.
    averaged = not isinstance(classifier, TimmClassifier)
    modules = loss_modules(classifier)
    found = [try_targets(one, num_classes, averaged) for one in modules]
    return AcceptedTargets(*map(all, zip(*found)))


def try_targets(
    module: nn.Module, num_classes: int, averaged: bool = True
) -> AcceptedTargets:
    """Try a copy of one loss module on a few targets.

    Raises:
        ValueError: It takes neither labels nor probabilities.
    """
    # With as many images as classes, some losses broadcast what is wrong.
    num = 2 + (num_classes == 2)
    labels = torch.arange(num) % num_classes
    logits = torch.linspace(-1, 1, num * num_classes).view(num, num_classes)
    sharp = torch.full_like(logits, 0.1 / num_classes)
    sharp[torch.arange(num), labels] += 0.9
    flat = (sharp + 1 / num_classes) / 2
    kwargs = dict(avg_factor=num) if averaged else {}
    results: list[Any] = []
    for target in (labels, sharp, flat):
        try:
            # A copy, as SeesawLoss counts the labels that it sees.
            with torch.no_grad():
                loss = copy.deepcopy(module)(logits, target, **kwargs)
            results.append(loss)
        except Exception as error:  # each loss refuses in a way of its own
            results.append(error)
    hard, first, second = results
    if isinstance(hard, Exception) and isinstance(first, Exception):
        raise ValueError(
            f'loss={type(module).__name__!r} takes neither labels of shape '
            f'(N, ) nor probabilities of shape (N, {num_classes}), as it '
            f'says {str(hard)!r}: give another loss, or other settings of it'
        ) from hard
    labelled, mixed, again = (isinstance(one, Tensor) for one in results)
    # LabelSmoothLoss(mode='multi_label') only asks which scores are not 0.
    scores = mixed and again and not torch.equal(first, second)
    return AcceptedTargets(labelled, scores, mixed)


def check_soft_targets(model: Any, accepted: AcceptedTargets) -> None:
    """Refuse soft targets that a model's method or loss can't learn."""
    method: Method = model.method
    mixes = getattr(model.data_preprocessor, 'batch_augments', None)
    name = f'method={type(method).__name__!r}'
    if method.needs_hard_labels and mixes is not None:
        raise ValueError(
            f'{name} needs hard labels, but batch_augments mix them: remove '
            'batch_augments from data_preprocessor (train_cfg.augments in the '
            'stock config), or choose another method'
        )
    sources = {
        name: method.changes_labels,
        f'label_smoothing={model.label_smoothing}': model.label_smoothing > 0,
        'batch_augments': mixes is not None and not accepted.mixtures,
    }
    soft = [source for source, is_soft in sources.items() if is_soft]
    if soft and not accepted.scores:
        modules = loss_modules(model.classifier)
        losses = ', '.join(type(one).__name__ for one in modules)
        raise ValueError(
            f'{" and ".join(soft)} give soft targets, but loss={losses} takes '
            'labels only: leave them out (M2AT keeps labels with '
            "clean_label=1, perturbed_label=1 and pairing='self'; PGDAT, "
            'TRADES and MART always do), or give a loss that takes '
            'probabilities, like CrossEntropyLoss'
        )


def trainable_target(
    target: Tensor, accepted: AcceptedTargets, method: Method
) -> Tensor:
    """Labels of shape (N, ), or probabilities of shape (N, K) as floats.

    Raises:
        ValueError: Probabilities are given to what takes labels only.
    """
    hard = method.needs_hard_labels or not accepted.mixtures
    if target.ndim == 2 and not target.is_floating_point():
        return target.argmax(1) if hard else target.float()
    if target.ndim == 2 and hard:
        raise ValueError(
            f'the batch has probabilities of shape {tuple(target.shape)} as '
            f'targets, but the method {type(method).__name__} or the loss '
            'takes labels only: give gt_label in place of gt_score, and mix '
            'no images'
        )
    return target


def as_samples(target: Tensor) -> list[DataSample]:
    """Annotations for a classifier's loss: a label, also beside a score."""
    samples = []
    # Cut up by one operation each: one for each image would keep the host
    # busier than a GPU.
    for label in hard_labels(target).view(-1, 1).unbind():
        samples.append(DataSample())
        samples[-1].set_field(label, 'gt_label', dtype=Tensor)
    if target.ndim == 2:
        for sample, score in zip(samples, target.unbind()):
            sample.set_field(score, 'gt_score', dtype=Tensor)
    return samples
