"""The path of an attack: from the clean image, step by step."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from m2at_mm.attacks import ThreatModel, own_random_stream
from m2at_mm.attacks.losses import LOSSES
from m2at_mm.model_wrappers import AdversarialClassifier
from m2at_mm.visualization import panels

_MOST_COLUMNS = 11  # of a strip, the clean image and ten steps


@dataclass
class AttackSteps:
    """Images under attack before the first and after each of K steps.

    Attributes:
        what (str): The attack and the loss that it raises.
        images (Tensor): RGB in [0, 1], shape (K + 1, N, C, H, W).
        labels (Tensor): True labels, int64, shape (N, ).
        losses (Tensor): What the attack raises, shape (K + 1, N).
        scores (Tensor): Predicted probabilities, shape (K + 1, N, classes).
    """

    what: str
    threat_model: ThreatModel
    images: Tensor
    labels: Tensor
    losses: Tensor
    scores: Tensor

    @classmethod
    def of(
        cls, model: AdversarialClassifier, images: Tensor, labels: Tensor
    ) -> AttackSteps:
        """Run the train attack with one step, with two, up to all.

        All begin at the same random start, that of the first restart. An
        attack without steps is shown as one. The model is in eval mode.

        Raises:
            ValueError: The model has no train attack.
        """
        attack: Any = copy(model.train_attack)
        if attack is None:
            raise ValueError(
                'train_attack=None has no steps to show: give '
                "model.train_attack=dict(type='m2at_mm.PGD')"
            )
        threat_model, states = copy(model.threat_model), [images]
        attack.restarts, total = 1, attack.steps or 1
        for attack.steps in range(1, total + 1):
            # Each run goes on from the same place in the stream.
            with own_random_stream(images.device):
                states.append(attack(model, images, labels, threat_model))
        with torch.no_grad():
            logits = [model(one).float() for one in states]
        # TRADES' attack goes away from the clean image's probabilities.
        reference = logits[0] if attack.loss == 'kl' else labels
        losses = [LOSSES[attack.loss](one, reference) for one in logits]
        return cls(
            f'{type(attack).__name__} raises the loss {attack.loss!r}',
            threat_model,
            torch.stack(states),
            labels,
            torch.stack(losses),
            torch.stack(logits).softmax(2),
        )


def draw_attack_steps(
    path: AttackSteps, classes: panels.Classes = None, note: str = ''
) -> Figure:
    """Draw a strip for each image: clean, then after each step.

    Below is the perturbation, amplified so that +-eps fills the scale (under
    l2, its largest value), with the loss that the attack raises and the
    prediction. Of more than ten steps, ten are shown.
    """
    last, num = len(path.images) - 1, len(path.labels)
    columns = min(last + 1, _MOST_COLUMNS)
    shown = [round(k * last / (columns - 1)) for k in range(columns)]
    shape, names = (2 * num, columns), map(_name, shown)
    size = max(1.35 * columns + 0.4, 5.0), 3.2 * num + 0.7
    title = panels.heading(path.what, path.threat_model, note)
    figure, axes = panels.grid(shape, size, names, title, fontsize=10)
    for row in range(num):
        for column, step in enumerate(shown):
            _draw_state(path, row, step, axes[2 * row :, column], classes)
        label = f'label: {panels.class_name(path.labels[row], classes)}'
        axes[2 * row, 0].set_ylabel(label, fontsize=9, parse_math=False)
    return figure


def draw_step_frames(
    path: AttackSteps, classes: panels.Classes = None, note: str = ''
) -> list[Figure]:
    """Draw the K + 1 frames of an animation, with a column per image.

    They are of one size, with the panels of :func:`draw_attack_steps`.
    """
    num, frames = len(path.labels), []
    heading = panels.heading(path.what, path.threat_model, note)
    for step in range(len(path.images)):
        # Fixed places: panels must not move from frame to frame.
        figure = Figure(figsize=(max(1.6 * num + 0.2, 5.0), 4.6))
        axes = figure.subplots(2, num, squeeze=False)
        borders = dict(left=0.02, right=0.98, bottom=0.12, top=0.79)
        figure.subplots_adjust(**borders, hspace=0.06, wspace=0.08)
        for column in range(num):
            _draw_state(path, column, step, axes[:, column], classes)
            label = panels.class_name(path.labels[column], classes)
            axes[0, column].set_title(label, fontsize=9, parse_math=False)
        of = f' of {len(path.images) - 1}' if step else ''
        figure.suptitle(f'{heading}\n{_name(step)}{of}', fontsize=11)
        frames.append(figure)
    return frames


def _draw_state(
    path: AttackSteps, image: int, step: int, axes: np.ndarray, classes: Any
) -> None:
    """An image after a step, its perturbation below."""
    perturbation = path.images[:, image] - path.images[0, image]
    full = panels.amplitude(path.threat_model, perturbation)
    scores, loss = path.scores[step, image], path.losses[step, image]
    text = f'loss {loss:.2f}\n{panels.likeliest(scores, classes)}\n'
    told = text, panels.RIGHT
    if int(scores.argmax()) != int(path.labels[image]):
        told = f'{text}wrong', panels.WRONG
    panels.show(axes[0], path.images[step, image])
    panels.show(axes[1], panels.amplified(perturbation[step], full), *told)


def _name(step: int) -> str:
    return f'step {step}' if step else 'clean'
