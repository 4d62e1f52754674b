"""M2AT's kinds of masks on the same perturbation."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

from matplotlib.figure import Figure
from torch import Tensor

from m2at_mm.attacks import ThreatModel
from m2at_mm.methods.labels import one_hot
from m2at_mm.methods.masking import MASKS, MixRatios, draw_masks
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


@dataclass
class MaskKinds:
    """A batch, attacked, under masks of each kind.

    Attributes:
        threat_model (ThreatModel): Norm and radius.
        clean (Tensor): Images, RGB in [0, 1], shape (N, C, H, W).
        perturbation (Tensor): That of the train attack, same shape.
        labels (Tensor): True labels, int64, shape (N, ).
        ratio (Tensor): Mixing ratios, the same for each kind, shape (N, ).
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
        """Attack a batch and draw masks of each kind, with the same ratios.

        Args:
            model (AdversarialClassifier): In eval mode, with method M2AT. It
                says the size of patches and how the ratio is distributed.
            images (Tensor): Clean images in [0, 1], shape (N, C, H, W).
            labels (Tensor): int64, shape (N, ).

        Raises:
            ValueError: The model's method is not M2AT.
        """
        method = check_has_masks(model)
        assert model.train_attack is not None
        threat_model = copy(model.threat_model)
        adversarial = model.train_attack(model, images, labels, threat_model)
        ratio = method.draw(images).ratio
        size, target = method.patch_size, one_hot(labels, model.num_classes)
        masks = {kind: draw_masks(kind, images, size) for kind in MASKS}
        keep_maps = {
            kind: method.mix(
                images, adversarial, target, MixRatios(mask, ratio)
            ).keep_map
            for kind, mask in masks.items()
        }
        perturbation = adversarial - images
        return cls(
            threat_model, images, perturbation, labels, ratio, masks, keep_maps
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
        note (str): Shown after the title. Defaults to ''.
    """
    num, columns = len(batch.clean), 2 + 2 * len(MASKS)
    titles = ['clean', 'perturbation']
    for kind in MASKS:
        titles += [f'mask={kind!r}', 'kept']
    heading = make_heading('Masks of M2AT', batch.threat_model, note)
    size = (1.5 * columns, 1.64 * num + 0.65)
    figure, axes = make_grid((num, columns), size, titles, heading)
    full = amplitude(batch.threat_model, batch.perturbation)
    for row, line in enumerate(axes):
        change = batch.perturbation[row]
        label = class_name(batch.labels[row], classes)
        show_panel(line[0], batch.clean[row], label)
        text = f'mixing ratio {batch.ratio[row]:.2f}'
        show_panel(line[1], amplified(change, full), text)
        for place, kind in enumerate(MASKS):
            mask, kept = batch.masks[kind][row], batch.keep_maps[kind][row]
            first, second = line[2 * place + 2 : 2 * place + 4]
            show_panel(first, mask, f'covers {mask.mean():.2f}')
            text = f'keeps {kept.mean():.2f}'
            show_panel(second, amplified(kept * change, full), text)
    return figure
