"""M2AT's kinds of masks, and its options, on the same perturbation."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from m2at_mm.attacks import ThreatModel
from m2at_mm.methods import M2AT, MixedBatch, MixRatios, draw_masks, one_hot
from m2at_mm.methods.m2at import MASKS
from m2at_mm.model_wrappers import AdversarialClassifier
from m2at_mm.visualization import panels

if TYPE_CHECKING:
    from typing_extensions import Self

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
_Draws = dict[str, tuple[M2AT, MixRatios]]


@dataclass
class _Variants:
    """A batch, attacked once, as several variants of M2AT train on it.

    By variant there are masks, ratios and partners, training images, and the
    perturbation in them. ``own`` names the config's options.
    """

    threat_model: ThreatModel
    clean: Tensor
    labels: Tensor
    perturbation: Tensor
    own: str
    draws: dict[str, MixRatios]
    mixed: dict[str, MixedBatch]
    kept: dict[str, Tensor]

    @classmethod
    def of(
        cls, model: AdversarialClassifier, images: Tensor, labels: Tensor
    ) -> Self:
        """Attack images in [0, 1], and mix them by each variant.

        Raises:
            ValueError: The model's method is not M2AT.
        """
        method, threat_model = model.method, copy(model.threat_model)
        if not isinstance(method, M2AT):
            raise ValueError(
                f'method {type(method).__name__} has no masks to show: '
                "give a config with method=dict(type='m2at_mm.M2AT')"
            )
        assert model.train_attack is not None
        adversarial = model.train_attack(model, images, labels, threat_model)
        target, plain = one_hot(labels, model.num_classes), vars(M2AT())
        draws, mixed, kept = {}, {}, {}
        for name, (variant, same) in cls._variants(method, images).items():
            draws[name] = same
            mixed[name] = variant.mix(images, adversarial, target, same)
            without = variant.mix(images, images, target, same).images
            kept[name] = mixed[name].images - without
        own = [f'{k}={v!r}' for k, v in vars(method).items() if v != plain[k]]
        about = adversarial - images, ', '.join(own) or 'plain'
        return cls(threat_model, images, labels, *about, draws, mixed, kept)

    @staticmethod
    def _variants(own: M2AT, images: Tensor) -> _Draws:
        """The variants by name, with draws that can be compared."""
        raise NotImplementedError


class MaskKinds(_Variants):
    """Each kind of mask, with the same mixing ratios.

    The config says the size of patches and how the ratio is distributed.
    """

    @staticmethod
    def _variants(own: M2AT, images: Tensor) -> _Draws:
        ratio = own.draw(images).ratio
        masks = {one: draw_masks(one, images, own.patch_size) for one in MASKS}
        return {k: (M2AT(), MixRatios(v, ratio)) for k, v in masks.items()}


class MethodOptions(_Variants):
    """M2AT's options on the same draws, and the config's own at the end.

    Masks are the config's everywhere, a ratio is the same quantile of its
    distribution, and the partner of an image is the next one.
    """

    @staticmethod
    def _variants(own: M2AT, images: Tensor) -> _Draws:
        masks: dict[str, Any] = dict(mask=own.mask, patch_size=own.patch_size)
        methods = {k: M2AT(**masks, **given) for k, given in VARIANTS.items()}
        mask, plain, _ = methods['plain'].draw(images)
        found = {}
        for name, method in {**methods, _OWN: own}.items():
            ratio, partner = plain, None
            if method.mix_alpha != 1:
                alpha = torch.tensor(float(method.mix_alpha))
                beta = torch.distributions.Beta(alpha, alpha)
                # The plain ratio is uniform, so it says the quantile.
                sample = beta.sample((_SAMPLES,)).to(plain)
                ratio = torch.quantile(sample, plain)
            if method.pairing == 'batch':
                partner = torch.arange(len(plain)).roll(-1).to(plain.device)
            found[name] = method, MixRatios(mask, ratio, partner)
        return found


def draw_mask_kinds(
    batch: MaskKinds, classes: panels.Classes = None, note: str = ''
) -> Figure:
    """Draw a row per image: the perturbation, and each kind of mask.

    For each kind there are the mask, white where the first of the two mixed
    images is perturbed, with the share that it covers, and what mixing keeps
    of the perturbation, amplified so that +-eps fills the scale (under l2, the
    largest value), with the kept share.
    """
    num, columns = len(batch.clean), 2 + 2 * len(MASKS)
    titles = ['clean', 'perturbation']
    for kind in MASKS:
        titles += [f'mask={kind!r}', 'kept']
    heading = panels.heading('Masks of M2AT', batch.threat_model, note)
    size = (1.5 * columns, 1.64 * num + 0.65)
    figure, axes = panels.grid((num, columns), size, titles, heading)
    full = panels.amplitude(batch.threat_model, batch.perturbation)
    for row, (clean, change, *rest) in enumerate(axes):
        label = panels.class_name(batch.labels[row], classes)
        panels.show(clean, batch.clean[row], label)
        whole = panels.amplified(batch.perturbation[row], full)
        ratio = batch.draws[MASKS[0]].ratio[row]
        panels.show(change, whole, f'mixing ratio {ratio:.2f}')
        for first, second, kind in zip(rest[::2], rest[1::2], MASKS):
            mask = batch.draws[kind].mask[row]
            panels.show(first, mask, f'covers {mask.mean():.2f}')
            kept = panels.amplified(batch.kept[kind][row], full)
            share = batch.mixed[kind].kept_share[row]
            panels.show(second, kept, f'keeps {share:.2f}')
    return figure


def draw_method_options(
    batch: MethodOptions, classes: panels.Classes = None, note: str = ''
) -> Figure:
    """Draw two rows per image: its training images, the perturbation in them.

    A column per option. Perturbations are amplified as in
    :func:`draw_mask_kinds`; with them are the kept share and the target.
    """
    num, columns = len(batch.clean), len(batch.mixed) + 1
    heading = panels.heading('Options of M2AT', batch.threat_model, note)
    size, titles = (1.6 * columns, 3.35 * num + 0.9), ['clean', *batch.mixed]
    about = f'{heading}\n{_OWN}: {batch.own}'
    figure, axes = panels.grid((2 * num, columns), size, titles, about)
    kept = torch.stack([*batch.kept.values()])
    full = panels.amplitude(batch.threat_model, kept)
    for row, (top, below) in enumerate(zip(axes[::2], axes[1::2])):
        name = panels.class_name(batch.labels[row], classes)
        panels.show(top[0], batch.clean[row], f'label: {name}')
        below[0].set_axis_off()
        top[1].set_ylabel('training image', fontsize=9)
        below[1].set_ylabel('perturbation in it', fontsize=9)
        for column, (variant, mixed) in enumerate(batch.mixed.items(), 1):
            panels.show(top[column], mixed.images[row])
            change = panels.amplified(batch.kept[variant][row], full)
            told = f'keeps {mixed.kept_share[row]:.2f}, target:\n'
            told += _describe_target(mixed.target[row], classes)
            panels.show(below[column], change, told)
    return figure


def _describe_target(target: Tensor, classes: panels.Classes) -> str:
    """The two likeliest classes, where there are two."""
    first = panels.likeliest(target, classes)
    rest = target.clone()
    rest[target.argmax()] = 0
    # Equal to the rest, as smoothed labels are, it is not one of two.
    if rest.max() > 0.99 * rest.sum() > 0:
        return f'{first}\n{panels.likeliest(rest, classes)}'
    return first
