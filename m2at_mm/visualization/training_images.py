"""A row per image: from the clean one to the training image."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from m2at_mm.attacks import ThreatModel, own_random_stream
from m2at_mm.attacks.logits import predicted_labels
from m2at_mm.methods import TrainingBatch, one_hot
from m2at_mm.model_wrappers import AdversarialClassifier
from m2at_mm.visualization import panels


@dataclass
class TrainingImages:
    """What a method makes of a batch, with the predictions on it.

    What the method lacks is None: without a train attack only the clean
    images are left. Images are RGB in [0, 1], shape (N, C, H, W); scores and
    targets are probabilities, shape (N, K). ``keep_map`` is in [0, 1], shape
    (N, 1, H, W), ``kept`` the perturbation in the training images.
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
        """Attack images in [0, 1], and have the method train on them."""
        name, attack = type(model.method).__name__, model.train_attack
        threat_model = copy(model.threat_model)  # schedules change it
        scores = _scores(model, images)
        found = cls(name, threat_model, images, labels, scores)
        if attack is None:
            return found
        adversarial = attack(model, images, labels, threat_model)
        found.adversarial = adversarial
        found.adversarial_scores = _scores(model, adversarial)
        if not model.method.needs_attack:
            return found

        def batch_of(attacked: Tensor) -> TrainingBatch:
            given = model, lambda *_: attacked, images, labels
            return model.method.training_batch(*given)

        # With another image in it, the change is more than the perturbation:
        # the same draws without one tell which part of it is.
        with own_random_stream(images.device):
            unattacked = batch_of(images)
        batch = batch_of(adversarial)
        found.training, found.keep_map = batch.images, batch.keep_map
        found.target = one_hot(batch.target, model.num_classes)
        if batch.keep_map is not None:
            found.kept = batch.images - unattacked.images
        return found

    def first(self, num: int) -> TrainingImages:
        """The first ``num`` images at most, as views of the tensors."""
        fields: Any = vars(self).items()
        views: Any = {k: v[:num] for k, v in fields if isinstance(v, Tensor)}
        return replace(self, **views)

    def fooled(self) -> Tensor | None:
        """Whether each image is right only without attack, None if unknown."""
        if self.adversarial_scores is None:
            return None
        clean = predicted_labels(self.clean_scores) == self.labels
        attacked = predicted_labels(self.adversarial_scores) == self.labels
        return clean & ~attacked

    def columns(self) -> dict[str, Tensor]:
        """Panels by their titles, each (N, C or 1, H, W) in [0, 1]."""
        shown = {'clean': self.clean}
        if self.adversarial is not None:
            perturbation = self.adversarial - self.clean
            full = panels.amplitude(self.threat_model, perturbation)
            if self.keep_map is not None:
                shown['mask (share kept)'] = self.keep_map
            shown['perturbation'] = panels.amplified(perturbation, full)
            if self.kept is not None:
                shown['kept perturbation'] = panels.amplified(self.kept, full)
        if self.training is not None:
            shown['training image'] = self.training
        return shown

    def describe(self, row: int, classes: panels.Classes) -> str:
        """Label, predictions and training target of an image, in lines."""
        label = int(self.labels[row])
        name = panels.class_name(label, classes)
        clean = panels.likeliest(self.clean_scores[row], classes)
        lines = [f'label: {name}', f'clean: {clean}']
        if self.adversarial_scores is not None:
            attacked = panels.likeliest(self.adversarial_scores[row], classes)
            lines.append(f'attacked: {attacked}')
        if self.keep_map is not None:
            lines.append(f'kept share: {self.keep_map[row].mean():.2f}')
        if self.target is not None:
            share = 100 * self.target[row, label]
            lines.append(f'target: {name} {share:.0f} %')
        return '\n'.join(lines)


@torch.no_grad()
def _scores(model: AdversarialClassifier, images: Tensor) -> Tensor:
    return torch.softmax(model(images), 1)


def draw_training_images(
    batch: TrainingImages, classes: panels.Classes = None, note: str = ''
) -> Figure:
    """Draw a row per image.

    As far as the method has them, the columns are the clean image, M2AT's mask
    weighted by the mixing ratio (white where the whole perturbation is kept),
    the perturbation and its kept part, amplified so that +-eps fills the scale
    (under l2, the largest value), and the training image. The text gives the
    predictions and the target.
    """
    num, columns = len(batch.clean), batch.columns()
    # The title of a picture with one column needs more.
    size = max(1.75 * len(columns) + 2.2, 5.0), 1.45 * num + 0.8
    title = panels.heading(batch.method, batch.threat_model, note)
    shape, ratios = (num, len(columns) + 1), [1] * len(columns) + [1.5]
    look: Any = dict(fontsize=10, width_ratios=ratios)
    figure, axes = panels.grid(shape, size, columns, title, **look)
    place = dict(va='center', fontsize=9, parse_math=False)
    for row, line in enumerate(axes):
        for images, axis in zip(columns.values(), line):
            panels.show(axis, images[row])
        line[-1].set_axis_off()
        line[-1].text(0.0, 0.5, batch.describe(row, classes), **place)
    return figure
