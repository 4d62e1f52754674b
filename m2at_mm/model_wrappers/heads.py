"""What mmpretrain's classifiers have in common, where they differ."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmpretrain.models import VGG, heads
from torch import Tensor, nn

from m2at_mm.attacks.context import attack_mode
from m2at_mm.attacks.logits import logits_of
from m2at_mm.model_wrappers.targets import as_samples, loss_modules


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
    """The logits that a classifier predicts from, shape (N, K).

    Conformer's two heads are added and LeViT's averaged, also in train mode.
    """
    with _trainable(classifier):
        scores = logits_of(lambda x: classifier(x, mode='tensor'), inputs)
    logits: Tensor = _joined(getattr(classifier, 'head', None), scores)
    return logits


def losses_and_logits(
    classifier: Any, inputs: Tensor, target: Tensor
) -> tuple[dict[str, Tensor], Tensor | None]:
    """The classifier's own losses on normalised images, and the logits.

    The logits, of shape (N, K), are those of the same forward pass and of the
    attacked function, also where the loss adds a margin to them; None if the
    head is not called. The distilled LeViT and EfficientFormer learn from the
    average of their two heads' logits, as mmpretrain's DeiT does.
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
    """Record the logits that a classifier predicts from while it learns."""
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
