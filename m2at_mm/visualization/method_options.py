"""What M2AT's options make of the same images with the same draws."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from m2at_mm.attacks import ThreatModel
from m2at_mm.methods import M2AT, MixedBatch, MixRatios, one_hot
from m2at_mm.model_wrappers import AdversarialClassifier
from m2at_mm.visualization.rendering import (
    Classes,
    amplified,
    amplitude,
    class_name,
    make_grid,
    make_heading,
    show_panel,
)
from m2at_mm.visualization.training_images import check_has_masks

#: Options of M2AT, each against its plain definition.
VARIANTS: dict[str, dict[str, Any]] = {
    'plain': {},
    'scale=2': dict(scale=2.0),
    'mix_alpha=0.2': dict(mix_alpha=0.2),
    "pairing='batch'": dict(pairing='batch'),
    'perturbed_label=0.5': dict(perturbed_label=0.5),
    "perturbed_label=0.5\nlabel_order='literal'": dict(
        perturbed_label=0.5, label_order='literal'
    ),
}
_OWN = 'this config'
_SAMPLES = 10001  # of a distribution, for its quantiles


@dataclass
class MethodOptions:
    """A batch, attacked, as M2AT with several options trains on it.

    Attributes:
        threat_model (ThreatModel): Norm and radius.
        clean (Tensor): Images, RGB in [0, 1], shape (N, C, H, W).
        labels (Tensor): True labels, int64, shape (N, ).
        own (str): The config's options that are not the plain ones.
        mixed (dict[str, MixedBatch]): Training images by variant.
        kept (dict[str, Tensor]): The perturbation in them, shape
            (N, C, H, W).
    """

    threat_model: ThreatModel
    clean: Tensor
    labels: Tensor
    own: str
    mixed: dict[str, MixedBatch]
    kept: dict[str, Tensor]

    @classmethod
    def of(
        cls, model: AdversarialClassifier, images: Tensor, labels: Tensor
    ) -> MethodOptions:
        """Attack a batch, draw once and mix in each way.

        Masks are the same everywhere, a ratio is the same quantile of its
        distribution, and the partner of an image is the next one.

        Args:
            model (AdversarialClassifier): In eval mode, with method M2AT. Its
                own options are the last variant, its masks those of all.
            images (Tensor): Clean images in [0, 1], shape (N, C, H, W).
            labels (Tensor): int64, shape (N, ).

        Raises:
            ValueError: The model's method is not M2AT.
        """
        own, plain = check_has_masks(model), vars(M2AT())
        assert model.train_attack is not None
        threat_model = copy(model.threat_model)
        adversarial = model.train_attack(model, images, labels, threat_model)
        masks: dict[str, Any] = dict(mask=own.mask, patch_size=own.patch_size)
        methods = {
            name: M2AT(**masks, **options)
            for name, options in VARIANTS.items()
        }
        draws = methods['plain'].draw(images)
        target = one_hot(labels, model.num_classes)
        mixed, kept = {}, {}
        for name, method in {**methods, _OWN: own}.items():
            same = _for_method(draws, method)
            mixed[name] = method.mix(images, adversarial, target, same)
            unattacked = method.mix(images, images, target, same)
            kept[name] = mixed[name].images - unattacked.images
        changed = [f'{k}={v!r}' for k, v in vars(own).items() if v != plain[k]]
        options = ', '.join(changed) or 'plain'
        return cls(threat_model, images, labels, options, mixed, kept)


def _for_method(draws: MixRatios, method: M2AT) -> MixRatios:
    """Plain draws, with ratio and partners as a method's options say."""
    ratio, partner = draws.ratio, None
    if method.mix_alpha != 1:
        alpha = torch.tensor(float(method.mix_alpha))
        sample = torch.distributions.Beta(alpha, alpha).sample((_SAMPLES,))
        # The plain ratio is uniform, so it says the quantile.
        ratio = torch.quantile(sample.to(ratio), ratio)
    if method.pairing == 'batch':
        partner = torch.arange(len(ratio), device=ratio.device).roll(-1)
    return MixRatios(draws.mask, ratio, partner)


def draw_method_options(
    batch: MethodOptions, classes: Classes = None, note: str = ''
) -> Figure:
    """Draw two rows per image: what is trained on, and what it keeps.

    The columns are the clean image and M2AT's options; in the last one are
    all those of the config. Below each training image is the perturbation in
    it, amplified so that +-eps fills the scale (under l2, the largest value),
    with the kept share and the training target.

    Args:
        batch (MethodOptions): The images of the rows.
        classes (Sequence[str], optional): Names of the classes. Defaults to
            None, their numbers.
        note (str): Shown after the title. Defaults to ''.
    """
    num, columns = len(batch.clean), len(batch.mixed) + 1
    heading = make_heading('Options of M2AT', batch.threat_model, note)
    figure, axes = make_grid(
        (2 * num, columns),
        (1.6 * columns, 3.35 * num + 0.9),
        ['clean', *batch.mixed],
        f'{heading}\n{_OWN}: {batch.own}',
    )
    full = amplitude(batch.threat_model, torch.stack([*batch.kept.values()]))
    for row in range(num):
        top, below = axes[2 * row : 2 * row + 2]
        name = class_name(batch.labels[row], classes)
        show_panel(top[0], batch.clean[row], f'label: {name}')
        below[0].set_axis_off()
        top[1].set_ylabel('training image', fontsize=9)
        below[1].set_ylabel('perturbation in it', fontsize=9)
        for column, (variant, mixed) in enumerate(batch.mixed.items(), 1):
            show_panel(top[column], mixed.images[row])
            show_panel(
                below[column],
                amplified(batch.kept[variant][row], full),
                f'keeps {mixed.kept_share[row]:.2f}, target:\n'
                f'{_describe_target(mixed.target[row], classes)}',
            )
    return figure


def _describe_target(target: Tensor, classes: Classes) -> str:
    """The two likeliest classes, where there are two."""
    values, indices = target.topk(2)
    lines = [
        f'{class_name(index, classes)} {100 * value:.0f} %'
        for value, index in zip(values, indices)
    ]
    # Equal to the rest, as smoothed labels are, it is not one of two.
    rest = target.sum() - values[0]
    return '\n'.join(lines) if values[1] > 0.99 * rest > 0 else lines[0]
