"""A row per image: from the clean one to the training image."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from m2at_mm.attacks import ThreatModel
from m2at_mm.attacks.logits import predicted_labels
from m2at_mm.methods import M2AT
from m2at_mm.methods.masking import one_hot
from m2at_mm.model_wrappers import AdversarialClassifier
from m2at_mm.visualization.rendering import (
    Classes,
    amplified,
    amplitude,
    class_name,
    describe_eps,
    describe_scores,
    show_panel,
)
from m2at_mm.visualization.witness import watch


@dataclass
class TrainingImages:
    """What a method makes of a batch, with the predictions on it.

    Tensors are on the CPU. What a method doesn't have is None: masks are
    M2AT's, training images those of methods that train on the attack, and
    without a train attack only the clean images are left.

    Attributes:
        method (str): The name of its class.
        threat_model (ThreatModel): Norm and radius.
        clean (Tensor): Images, RGB in [0, 1], shape (N, C, H, W).
        labels (Tensor): True labels, int64, shape (N, ).
        clean_scores (Tensor): Predicted probabilities, shape (N, K).
        adversarial (Tensor, optional): RGB in [0, 1], shape (N, C, H, W).
        adversarial_scores (Tensor, optional): Predicted probabilities, shape
            (N, K).
        training (Tensor, optional): RGB in [0, 1], shape (N, C, H, W).
        target (Tensor, optional): Of the training images, probabilities,
            shape (N, K).
        keep_map (Tensor, optional): In [0, 1], shape (N, 1, H, W).
        kept (Tensor, optional): The perturbation in the training images,
            shape (N, C, H, W).
    """

    method: str
    threat_model: ThreatModel
    clean: Tensor
    labels: Tensor
    clean_scores: Tensor
    adversarial: Tensor | None = None
    adversarial_scores: Tensor | None = None
    training: Tensor | None = None
    target: Tensor | None = None
    keep_map: Tensor | None = None
    kept: Tensor | None = None

    @classmethod
    def of(
        cls, model: AdversarialClassifier, images: Tensor, labels: Tensor
    ) -> TrainingImages:
        """Attack a batch and make training images of it.

        Args:
            model (AdversarialClassifier): In eval mode, with any method.
            images (Tensor): Clean images in [0, 1], shape (N, C, H, W).
            labels (Tensor): int64, shape (N, ).

        Returns:
            TrainingImages: All images of the batch.
        """
        found: dict[str, Any] = {}
        with torch.no_grad():
            clean_scores = model(images).softmax(1)
        if model.train_attack is not None:
            adversarial = model.train_attack(
                model, images, labels, model.threat_model
            )
            found = _made_of(model, images, adversarial, labels)
            with torch.no_grad():
                scores = model(adversarial).softmax(1)
            found.update(adversarial=adversarial, adversarial_scores=scores)
        return cls(
            method=type(model.method).__name__,
            threat_model=copy(model.threat_model),  # schedules change it
            clean=images.cpu(),
            labels=labels.cpu(),
            clean_scores=clean_scores.cpu(),
            **{name: value.cpu() for name, value in found.items()},
        )

    def first(self, num: int) -> TrainingImages:
        """Leave all images out but the first.

        Args:
            num (int): How many to keep, at most.

        Returns:
            TrainingImages: With views of the tensors.
        """
        tensors = {
            one.name: getattr(self, one.name)[:num]
            for one in fields(self)
            if isinstance(getattr(self, one.name), Tensor)
        }
        return replace(self, **tensors)

    def fooled(self) -> Tensor | None:
        """Which images are right when clean and wrong under the attack.

        Returns:
            Tensor, optional: bool, shape (N, ); None without a train attack.
        """
        if self.adversarial_scores is None:
            return None
        right = predicted_labels(self.clean_scores) == self.labels
        return right & (
            predicted_labels(self.adversarial_scores) != self.labels
        )

    def columns(self) -> dict[str, Tensor]:
        """Panels by their titles, each (N, C or 1, H, W) in [0, 1]."""
        panels = {'clean': self.clean}
        if self.adversarial is not None:
            perturbation = self.adversarial - self.clean
            full = amplitude(self.threat_model, perturbation)
            if self.keep_map is not None:
                panels['mask (share kept)'] = self.keep_map
            panels['perturbation'] = amplified(perturbation, full)
            if self.kept is not None:
                panels['kept perturbation'] = amplified(self.kept, full)
        if self.training is not None:
            panels['training image'] = self.training
        return panels

    def describe(self, row: int, classes: Classes) -> str:
        """Label, predictions and training target of an image.

        Args:
            row (int): Its position in the batch.
            classes (Sequence[str], optional): Names of the classes, None for
                their numbers.

        Returns:
            str: A line for each.
        """
        label = int(self.labels[row])
        name = class_name(label, classes)
        lines = [
            f'label: {name}',
            f'clean: {describe_scores(self.clean_scores[row], classes)}',
        ]
        if self.adversarial_scores is not None:
            attacked = describe_scores(self.adversarial_scores[row], classes)
            lines.append(f'attacked: {attacked}')
        if self.keep_map is not None:
            lines.append(f'kept share: {self.keep_map[row].mean():.2f}')
        if self.target is not None:
            share = 100 * self.target[row, label]
            lines.append(f'target: {name} {share:.0f} %')
        return '\n'.join(lines)


def _made_of(
    model: AdversarialClassifier,
    images: Tensor,
    adversarial: Tensor,
    labels: Tensor,
) -> dict[str, Tensor]:
    """The training images of a batch, and M2AT's masks."""
    method = model.method
    if not method.needs_attack:
        return {}
    if not isinstance(method, M2AT):
        seen = watch(method, model, images, adversarial, labels)
        return dict(training=seen.images, target=seen.target)
    draws = method.draw(images)
    target = one_hot(labels, model.num_classes)
    mixed = method.mix(images, adversarial, target, draws)
    # With another image in it, the change is more than the perturbation.
    unattacked = method.mix(images, images, target, draws)
    return dict(
        training=mixed.images,
        target=mixed.target,
        keep_map=mixed.keep_map,
        kept=mixed.images - unattacked.images,
    )


def check_has_masks(model: AdversarialClassifier) -> M2AT:
    """Return a model's method, or raise ValueError unless it is M2AT."""
    if not isinstance(model.method, M2AT):
        raise ValueError(
            f'method {type(model.method).__name__} has no masks to show: '
            "give a config with method=dict(type='m2at_mm.M2AT')"
        )
    return model.method


def draw_training_images(
    batch: TrainingImages, classes: Classes = None, note: str = ''
) -> Figure:
    """Draw a row per image.

    The columns are the clean image, M2AT's mask weighted by the mixing ratio
    (white where the whole perturbation is kept), the perturbation and its
    kept part, both amplified so that +-eps fills the scale (under l2, their
    largest value), and the training image, as far as the method has them.
    The text gives the predictions before and after the train attack, and the
    training target.

    Args:
        batch (TrainingImages): The images of the rows.
        classes (Sequence[str], optional): Names of the classes. Defaults to
            None, their numbers.
        note (str): Behind the title. Defaults to ''.

    Returns:
        Figure: To be saved with ``savefig``.
    """
    num, columns = len(batch.clean), batch.columns()
    width = 1.75 * len(columns) + 2.2
    # The title of a picture with one column needs more.
    figure = Figure(
        figsize=(max(width, 5.0), 1.45 * num + 0.8), layout='constrained'
    )
    axes = figure.subplots(
        num,
        len(columns) + 1,
        squeeze=False,
        width_ratios=[1] * len(columns) + [1.5],
    )
    for row in range(num):
        for panels, axis in zip(columns.values(), axes[row]):
            show_panel(axis, panels[row])
        text = axes[row, -1]
        text.set_axis_off()
        text.text(
            0.0,
            0.5,
            batch.describe(row, classes),
            va='center',
            fontsize=9,
            parse_math=False,
        )
    for column, title in enumerate(columns):
        axes[0, column].set_title(title, fontsize=10)
    title = f'{batch.method}, {describe_eps(batch.threat_model)}'
    figure.suptitle(title + (f' ({note})' if note else ''), fontsize=11)
    return figure
