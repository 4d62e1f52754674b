"""Attacks of one step, whose settings are in radii."""

from dataclasses import dataclass

import torch
from torch import Tensor

from m2at_mm.attacks.base import Attack, Batch
from m2at_mm.attacks.context import BN_MODES
from m2at_mm.attacks.losses import cross_entropy
from m2at_mm.attacks.pgd import PGD
from m2at_mm.attacks.threat_model import ThreatModel
from m2at_mm.checks import check_choice, check_number
from m2at_mm.registry import TASK_UTILS


@TASK_UTILS.register_module()
class FGSM(PGD):
    """One step, of a length in radii, above 0 (arXiv 1412.6572).

    With ``random_start=True, step=1.25`` it is FGSM-RS, the train attack of
    Fast-AT (arXiv 2001.03994). Other settings are those of :class:`PGD`.
    """

    def __init__(
        self,
        loss: str = 'ce',
        random_start: bool = False,
        step: float = 1.0,
        bn_mode: str = 'eval',
        full_precision: bool = False,
    ) -> None:
        check_number('step', step, above=0)
        self.step = step
        super().__init__(1, None, loss, random_start, bn_mode=bn_mode)
        self.full_precision = full_precision


@TASK_UTILS.register_module()
@dataclass(eq=False)
class NFGSM(Attack):
    """The train attack of N-FGSM (arXiv 2202.01181), for linf alone.

    With n ~ U(-k*eps, k*eps), k ``noise`` and alpha ``step``, in radii::

        x' = clip(x + n + alpha*sign(grad CE(f(x + n), y)))

    Its images leave the ball by definition, up to k + alpha radii, but not
    [0, 1]. Other settings are those of :class:`PGD`.
    """

    noise: float = 2.0
    step: float = 1.0
    bn_mode: str = 'eval'
    full_precision: bool = False

    def __post_init__(self) -> None:
        check_number('noise', self.noise, least=0)
        check_number('step', self.step, above=0)
        check_choice('bn_mode', self.bn_mode, BN_MODES)

    def perturb(self, batch: Batch) -> Tensor:
        """See :class:`Attack`."""
        if batch.threat_model.norm != 'linf':
            raise ValueError(
                'N-FGSM is defined for linf, but the threat model is '
                f'{batch.threat_model}: use PGD'
            )
        eps = batch.threat_model.eps
        with batch.attack_mode(self.bn_mode, self.full_precision, passes=1):
            noise = torch.empty_like(batch.images).uniform_(-eps, eps)
            start = batch.images + self.noise * noise
            _, gradient = batch.gradient(cross_entropy, start)
        step = self.length_of_step(batch.threat_model) * gradient.sign()
        return (start + step).clamp(0, 1)

    def length_of_step(self, threat_model: ThreatModel) -> float:
        """``step`` radii."""
        return self.step_factor * self.step * threat_model.eps
