"""Attacks of the packages torchattacks and foolbox, by their names there."""

import importlib
import inspect
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from m2at_mm.attacks.autoattack import float_logits
from m2at_mm.attacks.base import Attack, Batch
from m2at_mm.attacks.context import attack_mode, own_random_stream
from m2at_mm.attacks.threat_model import parse_length
from m2at_mm.checks import check_choice
from m2at_mm.registry import TASK_UTILS


class ForeignAttack(Attack):
    """An attack of another package, under our threat model.

    Args:
        name (str): The class of the package.
        seed (int): Seed of the draws of each batch. Defaults to 0.
        **settings (Any): Arguments of the class. Lengths are on the scale of
            images in [0, 1], a number or like ``'2/255'``; radius and norm
            are the threat model's.
    """

    package: str
    #: Module of the package's attacks.
    module: str
    #: By norm the classes that follow the gradient and need no target.
    names: dict[str, tuple[str, ...]]

    def __init__(self, name: str, seed: int = 0, **settings: Any) -> None:
        if name not in self.every_name():
            raise ValueError(
                f'name={name!r} is no untargeted gradient attack of '
                f'{self.package} under linf or l2: choose from '
                f'{sorted(self.every_name())}'
            )
        kind = getattr(self.load(), name)
        self.arguments = {*inspect.signature(kind.__init__).parameters}
        known = sorted(self.arguments - {'self', 'model'})
        for setting in settings:
            if setting in ('eps', 'norm', 'max_epsilon'):
                raise ValueError(
                    f'{setting}={settings[setting]!r} of {self.package}.'
                    f'{name} is the threat model: set threat_model instead'
                )
            check_choice(f'argument of {self.package}.{name}', setting, known)
        self.name, self.seed, self.kind = name, seed, kind
        self.settings = {
            key: parse_length(value, key) if isinstance(value, str) else value
            for key, value in settings.items()
        }

    @classmethod
    def every_name(cls) -> set[str]:
        """The names under any norm."""
        return set().union(*cls.names.values())

    @classmethod
    def load(cls) -> Any:
        """The module of the package's attacks.

        Raises:
            ImportError: The package is not installed.
        """
        try:
            return importlib.import_module(cls.module)
        except ImportError as error:
            raise ImportError(
                f'attacks of {cls.package} need the package: pip install '
                "'m2at_mm[attacks]'"
            ) from error

    def check_norm(self, norm: str) -> None:
        """Refuse a norm that the attack does not measure in.

        Raises:
            ValueError: It is another one's.
        """
        if self.name not in self.names[norm]:
            raise ValueError(
                f'{self.package}.{self.name} does not measure in {norm}: '
                f'choose from {list(self.names[norm])}'
            )

    def perturb(self, batch: Batch) -> Tensor:
        """See :class:`Attack`."""
        self.check_norm(batch.threat_model.norm)
        attacked = attack_mode(batch.model, full_precision=True)
        with attacked, _own_streams(batch.images.device, self.seed):
            # As the packages reshape by view.
            images = batch.images.contiguous().float()
            found = self.run(_Logits(batch).eval(), images, batch)
        # Inside the ball exactly, where a package rounds, and cut at its
        # radius, where a package looks for the nearest image at any distance.
        return batch.ball.project(found.detach().to(batch.images.dtype))

    @abstractmethod
    def run(self, network: nn.Module, images: Tensor, batch: Batch) -> Tensor:
        """What the package finds for a network of images in [0, 1]."""


@TASK_UTILS.register_module()
class TorchAttacks(ForeignAttack):
    """An attack of torchattacks, like ``name='DIFGSM'``.

    See :class:`ForeignAttack` for the arguments.
    """

    package = module = 'torchattacks'
    names = {
        'linf': (
            *('APGD', 'APGDT', 'BIM', 'DIFGSM', 'EOTPGD', 'FAB', 'FFGSM'),
            *('FGSM', 'Jitter', 'MIFGSM', 'NIFGSM', 'PGD', 'PGDRS'),
            *('PIFGSM', 'PIFGSMPP', 'RFGSM', 'SINIFGSM', 'TIFGSM', 'TPGD'),
            *('UPGD', 'VMIFGSM', 'VNIFGSM'),
        ),
        'l2': ('APGD', 'APGDT', 'CW', 'DeepFool', 'FAB', 'PGDL2', 'PGDRSL2'),
    }

    def run(self, network: nn.Module, images: Tensor, batch: Batch) -> Tensor:
        """See :class:`ForeignAttack`."""
        threat = batch.threat_model
        with torch.no_grad():
            num_classes = network(images[:1]).shape[1]
        ours = dict(
            eps=threat.eps,
            max_epsilon=threat.eps,
            norm=threat.norm.capitalize(),
            n_classes=num_classes,
        )
        given = {key: ours[key] for key in ours.keys() & self.arguments}
        attack = self.kind(network, **(given | self.settings))
        found: Tensor = attack(images, batch.labels)
        return found


@TASK_UTILS.register_module()
class Foolbox(ForeignAttack):
    """An attack of foolbox, like ``name='L2CarliniWagnerAttack'``.

    See :class:`ForeignAttack` for the arguments.
    """

    package, module = 'foolbox', 'foolbox.attacks'
    names = {
        'linf': (
            *('AdamPGD', 'FGSM', 'LInfFMNAttack', 'LinfAdamPGD'),
            'LinfAdamBasicIterativeAttack',
            *('LinfBasicIterativeAttack', 'LinfDeepFoolAttack'),
            'LinfFastGradientAttack',
            'LinfMomentumIterativeFastGradientMethod',
            *('LinfPGD', 'MIFGSM', 'PGD'),
        ),
        'l2': (
            *('DDNAttack', 'FGM', 'L2AdamBasicIterativeAttack', 'L2AdamPGD'),
            *('L2BasicIterativeAttack', 'L2CarliniWagnerAttack'),
            *('L2DeepFoolAttack', 'L2FMNAttack', 'L2FastGradientAttack'),
            *('L2MomentumIterativeFastGradientMethod', 'L2PGD'),
            'NewtonFoolAttack',
        ),
    }

    def run(self, network: nn.Module, images: Tensor, batch: Batch) -> Tensor:
        """See :class:`ForeignAttack`."""
        foolbox: Any = importlib.import_module('foolbox')
        wrapped = foolbox.PyTorchModel(
            network, bounds=(0, 1), device=images.device
        )
        _, clipped, _ = self.kind(**self.settings)(
            wrapped,
            images,
            foolbox.criteria.Misclassification(batch.labels),
            epsilons=batch.threat_model.eps,
        )
        found: Tensor = clipped
        return found


class _Logits(nn.Module):
    """The attacked function as a module, which both packages ask for."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.network, self.batch = batch.model, batch

    def forward(self, images: Tensor) -> Tensor:
        return float_logits(self.batch, images)


@contextmanager
def _own_streams(device: torch.device, seed: int) -> Iterator[None]:
    """Draws of PyTorch and NumPy begin at a seed, and leave no trace."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        with own_random_stream(device, seed):
            yield
    finally:
        np.random.set_state(state)
