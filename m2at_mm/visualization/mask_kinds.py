"""M2AT's kinds of masks on the same perturbation."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

from matplotlib.figure import Figure
from torch import Tensor

from m2at_mm.attacks import ThreatModel
from m2at_mm.methods.masking import (
    MASKS,
    MixedBatch,
    MixRatios,
    draw_masks,
    one_hot,
)
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


@dataclass
class MaskKinds:
    """A batch, attacked, under masks of each kind.

    Tensors are on the CPU.

    Attributes:
        threat_model (ThreatModel): Norm and radius.
        clean (Tensor): Images, RGB in [0, 1], shape (N, C, H, W).
        perturbation (Tensor): Of the train attack, same shape.
        labels (Tensor): True labels, int64, shape (N, ).
        ratio (Tensor): Of mixing, the same for each kind, shape (N, ).
        masks (dict[str, Tensor]): By kind, 0 or 1, shape (N, 1, H, W).
        keep_maps (dict[str, Tensor]): By kind, in [0, 1], same shape.
    """

    threat_model: ThreatModel
    clean: Tensor
    perturbation: Tensor
    labels: Tensor
    ratio: Tensor
    masks: dict[str, Tensor]
    keep_maps: dict[str, Tensor]

    @classmethod
    def of(
        cls, model: AdversarialClassifier, images: Tensor, labels: Tensor
    ) -> MaskKinds:
        """Attack a batch and draw masks of each kind.

        Args:
            model (AdversarialClassifier): In eval mode, with method M2AT. It
                says the size of patches and how the ratio is distributed.
            images (Tensor): Clean images in [0, 1], shape (N, C, H, W).
            labels (Tensor): int64, shape (N, ).

        Returns:
            MaskKinds: With the same ratios for each kind.

        Raises:
            ValueError: The model's method is not M2AT.
        """
        method = check_has_masks(model)
        assert model.train_attack is not None
        adversarial = model.train_attack(
            model, images, labels, model.threat_model
        )
        ratio = method.draw(images).ratio
        target = one_hot(labels, model.num_classes)
        mixed: dict[str, MixedBatch] = {}
        masks = {
            kind: draw_masks(kind, images, method.patch_size) for kind in MASKS
        }
        for kind, mask in masks.items():
            draws = MixRatios(mask, ratio)
            mixed[kind] = method.mix(images, adversarial, target, draws)
        return cls(
            threat_model=copy(model.threat_model),
            clean=images.cpu(),
            perturbation=(adversarial - images).cpu(),
            labels=labels.cpu(),
            ratio=ratio.cpu(),
            masks={kind: mask.cpu() for kind, mask in masks.items()},
            keep_maps={kind: mixed[kind].keep_map.cpu() for kind in MASKS},
        )


def draw_mask_kinds(
    batch: MaskKinds, classes: Classes = None, note: str = ''
) -> Figure:
    """Draw a row per image: the perturbation, and each kind of mask.

    For each kind there are the mask, white where the first of the two mixed
    images is perturbed, with the share of the image that it covers, and what
    mixing keeps of the perturbation, with the kept share. Perturbations are
    amplified so that +-eps fills the scale (under l2, their largest value).

    Args:
        batch (MaskKinds): The images of the rows.
        classes (Sequence[str], optional): Names of the classes. Defaults to
            None, their numbers.
        note (str): Behind the title. Defaults to ''.

    Returns:
        Figure: To be saved with ``savefig``.
    """
    num = len(batch.clean)
    full = amplitude(batch.threat_model, batch.perturbation)
    figure = Figure(
        figsize=(1.5 * (2 + 2 * len(MASKS)), 1.64 * num + 0.65),
        layout='constrained',
    )
    axes = figure.subplots(num, 2 + 2 * len(MASKS), squeeze=False)
    for row in range(num):
        perturbation = batch.perturbation[row]
        label = class_name(int(batch.labels[row]), classes)
        show_panel(axes[row, 0], batch.clean[row], label)
        show_panel(
            axes[row, 1],
            amplified(perturbation, full),
            f'mixing ratio {batch.ratio[row]:.2f}',
        )
        for place, kind in enumerate(MASKS):
            mask, kept = batch.masks[kind][row], batch.keep_maps[kind][row]
            first, second = axes[row, 2 * place + 2 : 2 * place + 4]
            show_panel(first, mask, f'covers {mask.mean():.2f}')
            show_panel(
                second,
                amplified(kept * perturbation, full),
                f'keeps {kept.mean():.2f}',
            )
    titles = ['clean', 'perturbation']
    for kind in MASKS:
        titles += [f'mask={kind!r}', 'kept']
    for axis, title in zip(axes[0], titles):
        axis.set_title(title, fontsize=9)
    title = f'Masks of M2AT, {describe_eps(batch.threat_model)}'
    figure.suptitle(title + (f' ({note})' if note else ''), fontsize=11)
    return figure
