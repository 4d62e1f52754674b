"""What M2AT's options make of the same images with the same draws."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from m2at_mm.attacks import ThreatModel
from m2at_mm.methods import M2AT
from m2at_mm.methods.masking import MixRatios, one_hot
from m2at_mm.model_wrappers import AdversarialClassifier
from m2at_mm.visualization.rendering import (
    Classes,
    amplified,
    amplitude,
    class_name,
    describe_eps,
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

    Tensors are on the CPU.

    Attributes:
        threat_model (ThreatModel): Norm and radius.
        clean (Tensor): Images, RGB in [0, 1], shape (N, C, H, W).
        labels (Tensor): True labels, int64, shape (N, ).
        own (str): The config's options that are not the plain ones.
        keep_maps (dict[str, Tensor]): By variant, in [0, 1], shape
            (N, 1, H, W).
        training (dict[str, Tensor]): Training images by variant, RGB in
            [0, 1], shape (N, C, H, W).
        kept (dict[str, Tensor]): The perturbation in them, same shape.
        targets (dict[str, Tensor]): By variant, probabilities, shape (N, K).
    """

    threat_model: ThreatModel
    clean: Tensor
    labels: Tensor
    own: str
    keep_maps: dict[str, Tensor] = field(default_factory=dict)
    training: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)
    targets: dict[str, Tensor] = field(default_factory=dict)

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

        Returns:
            MethodOptions: With every variant.

        Raises:
            ValueError: The model's method is not M2AT.
        """
        own = check_has_masks(model)
        assert model.train_attack is not None
        adversarial = model.train_attack(
            model, images, labels, model.threat_model
        )
        masks: dict[str, Any] = dict(mask=own.mask, patch_size=own.patch_size)
        methods = {
            name: M2AT(**masks, **options)
            for name, options in VARIANTS.items()
        }
        methods[_OWN] = own
        draws = methods['plain'].draw(images)
        target = one_hot(labels, model.num_classes)
        batch = cls(
            copy(model.threat_model),
            images.cpu(),
            labels.cpu(),
            _describe_options(own),
        )
        for name, method in methods.items():
            same = _for_method(draws, method)
            mixed = method.mix(images, adversarial, target, same)
            unattacked = method.mix(images, images, target, same)
            batch.keep_maps[name] = mixed.keep_map.cpu()
            batch.training[name] = mixed.images.cpu()
            batch.kept[name] = (mixed.images - unattacked.images).cpu()
            batch.targets[name] = mixed.target.cpu()
        return batch


def _describe_options(method: M2AT) -> str:
    plain = vars(M2AT())
    changed = {k: v for k, v in vars(method).items() if v != plain[k]}
    return ', '.join(f'{k}={v!r}' for k, v in changed.items()) or 'plain'


def _for_method(draws: MixRatios, method: M2AT) -> MixRatios:
    """Plain draws, with ratio and partners as a method's options say."""
    ratio, partner = draws.ratio, None
    if method.mix_alpha != 1:
        alpha = torch.tensor(float(method.mix_alpha))
        sample = torch.distributions.Beta(alpha, alpha).sample((_SAMPLES,))
        # The plain ratio is uniform, so it says the quantile.
        ratio = torch.quantile(sample.to(ratio), ratio)
    if method.pairing == 'batch':
        num = len(ratio)
        partner = torch.arange(num, device=ratio.device).roll(-1)
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
        note (str): Behind the title. Defaults to ''.

    Returns:
        Figure: To be saved with ``savefig``.
    """
    num, columns = len(batch.clean), len(batch.training) + 1
    full = amplitude(batch.threat_model, torch.stack([*batch.kept.values()]))
    figure = Figure(
        figsize=(1.6 * columns, 3.35 * num + 0.9), layout='constrained'
    )
    axes = figure.subplots(2 * num, columns, squeeze=False)
    for row in range(num):
        name = class_name(int(batch.labels[row]), classes)
        show_panel(axes[2 * row, 0], batch.clean[row], f'label: {name}')
        axes[2 * row + 1, 0].set_axis_off()
        axes[2 * row, 1].set_ylabel('training image', fontsize=9)
        axes[2 * row + 1, 1].set_ylabel('perturbation in it', fontsize=9)
        for column, variant in enumerate(batch.training, start=1):
            first, second = axes[2 * row : 2 * row + 2, column]
            show_panel(first, batch.training[variant][row])
            share = batch.keep_maps[variant][row].mean()
            target = _describe_target(batch.targets[variant][row], classes)
            show_panel(
                second,
                amplified(batch.kept[variant][row], full),
                f'keeps {share:.2f}, target:\n{target}',
            )
    for axis, title in zip(axes[0], ['clean', *batch.training]):
        axis.set_title(title, fontsize=9)
    title = f'Options of M2AT, {describe_eps(batch.threat_model)}'
    title += f' ({note})' if note else ''
    figure.suptitle(f'{title}\n{_OWN}: {batch.own}', fontsize=11)
    return figure


def _describe_target(target: Tensor, classes: Classes) -> str:
    """The two likeliest classes, where there are two."""
    values, indices = target.topk(2)
    lines = [
        f'{class_name(int(index), classes)} {100 * value:.0f} %'
        for value, index in zip(values, indices)
    ]
    # Equal to the rest, as smoothed labels are, it is not one of two.
    rest = target.sum() - values[0]
    return '\n'.join(lines) if values[1] > 0.99 * rest > 0 else lines[0]
