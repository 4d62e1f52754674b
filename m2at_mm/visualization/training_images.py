"""A row per image: from the clean one to M2AT's training image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from m2at_mm.methods import M2AT
from m2at_mm.methods.masking import one_hot
from m2at_mm.model_wrappers import AdversarialClassifier

_COLUMNS = (
    'clean',
    'mask (share kept)',
    'perturbation',
    'kept perturbation',
    'training image',
)


@dataclass
class TrainingImages:
    """What M2AT makes of a batch, with the predictions on it.

    Images are RGB in [0, 1] of shape (N, C, H, W), on the CPU.
    """

    clean: Tensor
    adversarial: Tensor
    training: Tensor
    keep_map: Tensor  #: In [0, 1], shape (N, 1, H, W).
    labels: Tensor  #: True labels, shape (N, ).
    target: Tensor  #: What the training images are trained to, shape (N, K).
    clean_scores: Tensor  #: Predicted probabilities, shape (N, K).
    adversarial_scores: Tensor  #: Under the train attack, shape (N, K).
    eps: float  #: Radius of the threat model, as for images in [0, 1].

    @classmethod
    def of(
        cls, model: AdversarialClassifier, images: Tensor, labels: Tensor
    ) -> TrainingImages:
        """Attack, mask and mix a batch as training would.

        Args:
            model (AdversarialClassifier): Its method must be M2AT.
            images (Tensor): Clean images in [0, 1], shape (N, C, H, W).
            labels (Tensor): int64, shape (N, ).

        Raises:
            ValueError: The model's method is not M2AT.
        """
        if not isinstance(model.method, M2AT) or model.train_attack is None:
            raise ValueError(
                f'method {type(model.method).__name__} has no masks to show: '
                "give a config with method=dict(type='m2at_mm.M2AT')"
            )
        adversarial = model.train_attack(
            model, images, labels, model.threat_model
        )
        mixed = model.method.mix(
            images, adversarial, one_hot(labels, model.num_classes)
        )
        with torch.no_grad():
            clean_scores = model(images).softmax(1)
            adversarial_scores = model(adversarial).softmax(1)
        return cls(
            clean=images.cpu(),
            adversarial=adversarial.cpu(),
            training=mixed.images.cpu(),
            keep_map=mixed.keep_map.cpu(),
            labels=labels.cpu(),
            target=mixed.target.cpu(),
            clean_scores=clean_scores.cpu(),
            adversarial_scores=adversarial_scores.cpu(),
            eps=model.threat_model.eps,
        )


def draw_training_images(
    batch: TrainingImages,
    classes: Optional[Sequence[str]] = None,
    note: str = '',
) -> Figure:
    """Draw a row per image.

    The columns are the clean image, the mask weighted by the mixing ratio
    (white where the whole perturbation is kept), the perturbation and its
    kept part, both amplified so that +-eps fills the scale, and the training
    image. The text gives
    the predictions before and after the train attack, and the training
    target.

    Args:
        batch (TrainingImages): The images of the rows.
        classes (Sequence[str], optional): Names of the classes. Defaults to
            None, their numbers.
        note (str): A line under the title. Defaults to ''.

    Returns:
        Figure: To be saved with ``savefig``.
    """
    num = len(batch.clean)
    figure = Figure(figsize=(10.5, 1.45 * num + 0.8), layout='constrained')
    axes = figure.subplots(
        num,
        len(_COLUMNS) + 1,
        squeeze=False,
        width_ratios=[1] * len(_COLUMNS) + [1.5],
    )
    perturbation = batch.adversarial - batch.clean
    kept = batch.training - batch.clean
    for row in range(num):
        cells = (
            batch.clean[row],
            batch.keep_map[row].expand(3, -1, -1),
            0.5 + perturbation[row] / (2 * batch.eps),
            0.5 + kept[row] / (2 * batch.eps),
            batch.training[row],
        )
        for cell, axis in zip(cells, axes[row]):
            axis.imshow(_pixels(cell), interpolation='nearest')
        axes[row, -1].text(
            0.0, 0.5, _describe(batch, row, classes), va='center', fontsize=9
        )
        for axis in axes[row]:
            axis.set_axis_off()
    for column, title in enumerate(_COLUMNS):
        axes[0, column].set_title(title, fontsize=10)
    figure.suptitle(
        f'M2AT, eps {batch.eps * 255:g}/255' + (f' ({note})' if note else ''),
        fontsize=11,
    )
    return figure


def _pixels(image: Tensor) -> np.ndarray:
    """(C, H, W) to (H, W, 3) in [0, 1], as matplotlib wants it."""
    return image.expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1).numpy()


def _describe(
    batch: TrainingImages, row: int, classes: Optional[Sequence[str]]
) -> str:
    def name(index: int) -> str:
        return classes[index] if classes else str(index)

    def prediction(scores: Tensor) -> str:
        score, index = scores[row].max(0)
        return f'{name(int(index))} {100 * score:.0f} %'

    label = int(batch.labels[row])
    share = batch.keep_map[row].mean()
    return (
        f'label: {name(label)}\n'
        f'clean: {prediction(batch.clean_scores)}\n'
        f'attacked: {prediction(batch.adversarial_scores)}\n'
        f'kept share: {share:.2f}\n'
        f'target: {name(label)} {100 * batch.target[row, label]:.0f} %'
    )
