"""AutoAttack (arXiv 2003.01690), by the package ``pyautoattack``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from m2at_mm.attacks.context import attack_mode
from m2at_mm.attacks.logits import logits_of, predicted_labels
from m2at_mm.attacks.losses import as_target, check_classes, hard_labels
from m2at_mm.attacks.random_stream import own_random_stream
from m2at_mm.attacks.threat_model import ThreatModel
from m2at_mm.registry import TASK_UTILS

_NORMS = {'linf': 'Linf', 'l2': 'L2'}
# The attacks of each version, in order.
_VERSIONS = {
    'standard': ('apgd-ce', 'apgd-t', 'fab-t', 'square'),
    'rand': ('apgd-ce', 'apgd-dlr'),
}
# The logits that a loss compares: the difference of logits ratio divides by
# the gap to the third largest, its targeted form to the fourth.
_FEWEST_CLASSES = {'apgd-dlr': 3, 'apgd-t': 4}
AUTOATTACK_PARTS = ('apgd-ce', 'apgd-dlr', 'apgd-t', 'fab-t', 'square')
# Target classes per image in apgd-t and fab-t, by the standard version.
_TARGETS = 9


def autoattack_components(version: str, num_classes: int) -> tuple[str, ...]:
    """The attacks of a version of AutoAttack that the classes allow.

    Args:
        version (str): ``'standard'`` or ``'rand'``, which is for randomised
            models: 20 gradients are averaged per step.
        num_classes (int): Classes of the model, at least 2. With 3, apgd-dlr
            takes the place of apgd-t, whose loss needs 4 logits; with 2 there
            is neither.

    Returns:
        tuple[str, ...]: Names, in the order in which they run.

    Raises:
        ValueError: ``version`` is unknown or there is only one class.
    """
    if version not in _VERSIONS:
        raise ValueError(
            f'version={version!r} is unknown: choose from {list(_VERSIONS)}'
        )
    if num_classes < 2:
        raise ValueError(
            f'num_classes={num_classes}: a model with one class cannot be '
            'attacked'
        )
    allowed = []
    for name in _VERSIONS[version]:
        if name == 'apgd-t' and num_classes == 3:
            name = 'apgd-dlr'
        if num_classes >= _FEWEST_CLASSES.get(name, 2):
            allowed.append(name)
    return tuple(allowed)


def describe_reduction(version: str, num_classes: int) -> str | None:
    """How AutoAttack differs from that on ten classes, None if it doesn't."""
    if num_classes == 10:
        return None
    if num_classes > 10:
        if version == 'rand':
            return None
        return (
            f'AutoAttack aims at {_TARGETS} of the {num_classes - 1} wrong '
            'classes of an image, those of the largest logits, as its '
            'standard version does'
        )
    components = autoattack_components(version, num_classes)
    targets = min(_TARGETS, num_classes - 1)
    return (
        f'with {num_classes} classes AutoAttack is {" + ".join(components)}'
        + (f', aiming at {targets} classes' if version == 'standard' else '')
    )


@TASK_UTILS.register_module()
class AutoAttack:
    """AutoAttack or some of its attacks, run by ``pyautoattack``.

    Each attack goes on where the one before it failed, with the settings of
    its version: 100 iterations, one restart, 5000 queries. The outcome depends
    on the batch, since random starts are drawn for a batch at a time, from
    the same ``seed`` for every batch and attack, as in the package. It runs in
    the model's own precision also under autocast: the last of its steps are
    shorter than half precision can tell apart.

    Args:
        attacks (Sequence[str], optional): Of ``'apgd-ce'``, ``'apgd-dlr'``,
            ``'apgd-t'``, ``'fab-t'`` and ``'square'``. Defaults to None, all
            of the version's that the model's number of classes allows.
        version (str): ``'standard'`` or ``'rand'``, for randomised models.
            Defaults to ``'standard'``.
        seed (int): Of the random starts. Defaults to 0.

    Raises:
        ImportError: ``pyautoattack`` is not installed.
        ValueError: An attack or the version is unknown.

    Example:
        >>> eval_attacks = dict(autoattack=dict(type='m2at_mm.AutoAttack'))
    """

    def __init__(
        self,
        attacks: Sequence[str] | None = None,
        version: str = 'standard',
        seed: int = 0,
    ) -> None:
        unknown = set(attacks or ()) - set(AUTOATTACK_PARTS)
        if unknown:
            raise ValueError(
                f'attacks={list(attacks or ())} has {sorted(unknown)}, which '
                f'AutoAttack does not: choose from {list(AUTOATTACK_PARTS)}'
            )
        autoattack_components(version, 10)  # refuses an unknown version
        _import_package()
        self.attacks = None if attacks is None else tuple(attacks)
        self.version = version
        self.seed = seed

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        target: Tensor,
        threat_model: ThreatModel,
        stop_when_fooled: bool = True,
    ) -> Tensor:
        """Attack a batch.

        Args:
            model (nn.Module): Maps images in [0, 1], shape (N, C, H, W), to
                logits of shape (N, K).
            images (Tensor): Clean images, RGB in [0, 1], shape (N, C, H, W).
            target (Tensor): Labels, int64 of shape (N, ), or probabilities of
                shape (N, K), whose largest is taken as the label.
            threat_model (ThreatModel): Norm and radius.
            stop_when_fooled (bool): For the interface of the attacks;
                AutoAttack always stops there. Defaults to True.

        Returns:
            Tensor: Images inside ball and box, shape (N, C, H, W). Clean
            where every attack failed or the clean image is misclassified.

        Raises:
            TypeError: The target has a wrong shape or type.
            ValueError: The model has too few classes for one of ``attacks``,
                or the target does not fit its classes.
        """
        images = images.detach().contiguous().float()
        target = as_target(target, len(images))
        labels = hard_labels(target)
        result = images.clone()
        logits = _Logits(model)
        attacked = attack_mode(model, full_precision=True)
        with attacked, own_random_stream(images.device):
            clean = logits(images)
            check_classes(target, clean.shape[1])
            robust = predicted_labels(clean) == labels
            package = self._package(logits, images.device, threat_model)
            num_classes = clean.shape[1]
            _set_targets(package, num_classes)
            for name in self.components(num_classes):
                left = robust.nonzero().flatten()
                if not len(left):
                    break
                found = _run(
                    package, name, self.seed, images[left], labels[left]
                )
                # The package may round a pixel out of the ball.
                found = threat_model.ball(images[left]).project(found.detach())
                with torch.no_grad():
                    fooled = predicted_labels(logits(found)) != labels[left]
                result[left[fooled]] = found[fooled]
                robust[left[fooled]] = False
        return result

    def components(self, num_classes: int) -> tuple[str, ...]:
        """The attacks that are run on a model of so many classes.

        Args:
            num_classes (int): The number of logits, K.

        Returns:
            tuple[str, ...]: Names, in the order in which they are run.

        Raises:
            ValueError: One of ``attacks`` compares more logits.
        """
        if self.attacks is None:
            return autoattack_components(self.version, num_classes)
        for name in self.attacks:
            fewest = _FEWEST_CLASSES.get(name, 2)
            if num_classes < fewest:
                raise ValueError(
                    f'attack {name!r} compares {fewest} logits, but the model '
                    f'has {num_classes} classes: run apgd-ce, fab-t and '
                    "square, or 'autoattack', which leaves it out"
                )
        return self.attacks

    def _package(
        self, logits: _Logits, device: torch.device, threat_model: ThreatModel
    ) -> Any:
        return _import_package().AutoAttack(
            logits,
            norm=_NORMS[threat_model.norm],
            eps=threat_model.eps,
            version=self.version,
            seed=self.seed,
            device=device,
        )


class _Logits(nn.Module):
    """The model, with what the package takes for granted."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = [model]  # its mode is attack_mode's business

    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad:
            images = images.view_as(images)
            # The package reshapes gradients by view.
            images.register_hook(lambda gradient: gradient.contiguous())
        logits: Tensor = logits_of(self._model[0], images)
        return logits.float()


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


def _set_targets(package: Any, num_classes: int) -> None:
    targets = min(_TARGETS, num_classes - 1)
    package.apgd_targeted.n_target_classes = targets
    package.fab.n_target_classes = targets


def _run(
    package: Any, name: str, seed: int, images: Tensor, labels: Tensor
) -> Tensor:
    """One attack as ``run_standard_evaluation`` of the package runs it.

    Calling the attack itself leaves out its checks of the model, five
    forward passes and a trace function for every batch.
    """
    if name in ('apgd-ce', 'apgd-dlr'):
        attack = package.apgd
        attack.loss = name[len('apgd-') :]
    elif name == 'apgd-t':
        attack = package.apgd_targeted
    elif name == 'fab-t':
        attack = package.fab
        attack.targeted = True
        attack.n_restarts = 1
    else:
        attack = package.square
    attack.seed = seed
    with torch.no_grad():
        adversarial: Tensor = attack.perturb(images, labels)
    return adversarial
