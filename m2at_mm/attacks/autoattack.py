"""AutoAttack (arXiv 2003.01690) and MALT, by the package ``pyautoattack``."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from m2at_mm.attacks.base import Attack, Batch
from m2at_mm.attacks.context import attack_mode, own_random_stream
from m2at_mm.attacks.logits import predicted_labels
from m2at_mm.checks import check_choice, check_count
from m2at_mm.registry import TASK_UTILS

# The attacks of each version, in order.
_VERSIONS = dict(
    standard=('apgd-ce', 'apgd-t', 'fab-t', 'square'),
    rand=('apgd-ce', 'apgd-dlr'),
)
# The attacks, by what the package calls them, and the logits that a loss
# compares: the difference of logits ratio divides by the gap to the third
# largest, its targeted form to the fourth.
_PARTS = {
    'apgd-ce': ('apgd', 2),
    'apgd-dlr': ('apgd', 3),
    'apgd-t': ('apgd_targeted', 4),
    'fab-t': ('fab', 2),
    'square': ('square', 2),
    'malt': ('apgd_targeted', 2),
}
# Target classes per image in apgd-t and fab-t, by the standard version.
_TARGETS = 9
# Classes of the largest logits that MALT puts in order (ours): each costs a
# backward pass.
_CANDIDATES = 100


def autoattack_components(version: str, num_classes: int) -> tuple[str, ...]:
    """The attacks of a version of AutoAttack that the classes allow."""
    check_choice('version', version, _VERSIONS)
    check_count('num_classes', num_classes, least=2)
    names = _VERSIONS[version]
    if num_classes == 3:  # which the loss of apgd-t cannot compare
        names = tuple(name.replace('apgd-t', 'apgd-dlr') for name in names)
    return tuple(n for n in names if num_classes >= _PARTS[n][1])


def describe_reduction(version: str, num_classes: int) -> str | None:
    """How AutoAttack differs from that on ten classes, None if it doesn't."""
    if num_classes == 10 or (num_classes > 10 and version == 'rand'):
        return None
    if num_classes > 10:
        note = f'AutoAttack aims at {_TARGETS} of the {num_classes - 1} wrong '
        note += 'classes of an image, those of the largest logits, as its '
        return f'{note}standard version does'
    names = ' + '.join(autoattack_components(version, num_classes))
    note = f'with {num_classes} classes AutoAttack is {names}'
    if version == 'standard':
        more = 'es' if num_classes > 2 else ''
        note += f', aiming at {num_classes - 1} class{more}'
    return note


@TASK_UTILS.register_module()
@dataclass(eq=False)
class AutoAttack(Attack):
    """AutoAttack or some of its attacks, run by ``pyautoattack``.

    Each attack goes on where the one before it failed; an image that
    withstands stays clean. The outcome depends on the batch. Autocast is left.

    Args:
        attacks (Sequence[str], optional): Some of ``'apgd-ce'``,
            ``'apgd-dlr'``, ``'apgd-t'``, ``'fab-t'`` and ``'square'``.
            Defaults to those of the version that the classes allow.
        version (str): ``'standard'``, or ``'rand'`` for randomised models:
            20 gradients are averaged per step.
        seed (int): Seed of the random starts of each batch.
    """

    attacks: Sequence[str] | None = None
    version: str = 'standard'
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.attacks or ():
            check_choice('attacks', name, _PARTS)
        check_choice('version', self.version, _VERSIONS)
        _import_package()
        self.black_box = set(self.attacks or ()) == {'square'}

    def perturb(self, batch: Batch) -> Tensor:
        """See :class:`Attack`."""
        images, labels = batch.images.contiguous().float(), batch.labels
        result = images.clone()
        logits = partial(float_logits, batch)
        attacked = attack_mode(batch.model, full_precision=True)
        with attacked, own_random_stream(images.device), torch.no_grad():
            clean = logits(images)
            robust = predicted_labels(clean) == labels
            package = self._package(batch, clean.shape[1])
            for name in self.components(clean.shape[1]):
                left = robust.nonzero().flatten()
                if not len(left):
                    break
                # As in run_standard_evaluation, without its checks: they are
                # five forward passes and a trace function for every batch.
                attack = getattr(package, _PARTS[name][0])
                if attack is package.apgd:
                    attack.loss = name.removeprefix('apgd-')
                run = attack.perturb
                if name == 'malt':
                    run = partial(_malt, attack)
                found = run(images[left], labels[left])
                # The package may round a pixel out of the ball.
                found = batch.threat_model.ball(images[left]).project(found)
                fooled = predicted_labels(logits(found)) != labels[left]
                result[left[fooled]] = found[fooled]
                robust[left[fooled]] = False
        # Exactly inside for images in double precision, too.
        return batch.ball.project(result.to(batch.images.dtype))

    def components(self, num_classes: int) -> tuple[str, ...]:
        """The attacks that are run on a model of so many classes, in order."""
        if self.attacks is None:
            return autoattack_components(self.version, num_classes)
        for name in self.attacks:
            fewest = _PARTS[name][1]
            if num_classes < fewest:
                raise ValueError(
                    f'attack {name!r} compares {fewest} logits, but the model '
                    f'has {num_classes} classes: run apgd-ce, fab-t and '
                    "square, or 'autoattack', which leaves it out"
                )
        return tuple(self.attacks)

    def _package(self, batch: Batch, num_classes: int) -> Any:
        package = _import_package().AutoAttack(
            partial(float_logits, batch),
            norm=batch.threat_model.norm.capitalize(),
            eps=batch.threat_model.eps,
            version=self.version,
            seed=self.seed,
            device=batch.images.device,
        )
        targets = min(_TARGETS, num_classes - 1)
        package.apgd_targeted.n_target_classes = targets
        package.fab.n_target_classes = targets
        package.fab.targeted, package.fab.n_restarts = True, 1
        return package


def float_logits(batch: Batch, images: Tensor) -> Tensor:
    """Logits in float32, with gradients that can be reshaped by view."""
    if images.requires_grad:
        images = images.view_as(images)
        images.register_hook(lambda gradient: gradient.contiguous())
    return batch.logits(images).float()


def _import_package() -> Any:
    try:
        import pyautoattack
    except ImportError as error:
        raise ImportError(
            'AutoAttack and its attacks (apgd-*, fab-t, square) are run by '
            "the package pyautoattack: pip install 'm2at_mm[eval]'"
        ) from error
    # It tells of every version it sets up.
    logging.getLogger('auto-attack').setLevel(logging.WARNING)
    return pyautoattack


def _malt(apgd: Any, images: Tensor, labels: Tensor) -> Tensor:
    """Attack images by targeted APGD on the margin, nearest class first.

    Melamed et al., arXiv 2407.02240: where a model is nearly linear, the
    boundary to class c is as far away as (f_y - f_c) over the dual norm of
    its gradient. So few targets are needed; the loss is f_c - f_y. Images
    that withstand every target are where the last one led.
    """
    apgd.dlr_loss_targeted = lambda z, y: _lead(z, apgd.y_target, y)
    apgd.init_hyperparam(images)
    order = _nearest_classes(apgd, images, labels)
    found, left = images.clone(), torch.arange(len(images)).to(labels.device)
    torch.manual_seed(apgd.seed)
    for target in order.unbind(1):
        apgd.y_target = target[left]
        part = images[left], labels[left]
        _, withstood, _, found[left] = apgd.attack_single_run(*part)
        left = left[withstood > 0]
        if not len(left):
            break
    return found


def _lead(logits: Tensor, classes: Tensor, labels: Tensor) -> Tensor:
    """The logit of a class less that of the label, shape (N, )."""
    pair = torch.stack([labels, classes], 1)
    return logits.gather(1, pair).diff(dim=1).squeeze(1)


@torch.enable_grad()
def _nearest_classes(apgd: Any, images: Tensor, labels: Tensor) -> Tensor:
    """The wrong classes to aim at, nearest first, shape (N, T)."""
    images = images.detach().clone().requires_grad_(True)
    logits = apgd.model(images)
    wrong = logits.detach().scatter(1, labels.unsqueeze(1), -torch.inf)
    ranked = wrong.argsort(1, descending=True)[:, :-1][:, :_CANDIDATES]
    dual = 1 if apgd.norm == 'Linf' else 2
    distances = []
    for classes in ranked.unbind(1):
        lead = _lead(logits, classes, labels)
        total = lead.sum()
        (slope,) = torch.autograd.grad(total, images, retain_graph=True)
        slope = slope.flatten(1).norm(dual, dim=1)
        distances.append(-lead.detach() / slope.clamp(min=1e-30))
    nearest = torch.stack(distances, 1).argsort(1)
    order: Tensor = ranked.gather(1, nearest)
    return order[:, : int(apgd.n_target_classes)]
