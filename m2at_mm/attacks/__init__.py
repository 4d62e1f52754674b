"""Attacks on images in [0, 1]."""

from m2at_mm.attacks.autoattack import AutoAttack
from m2at_mm.attacks.base import Attack, Batch
from m2at_mm.attacks.context import (
    attack_mode,
    differentiable_checkpoints,
    own_random_stream,
)
from m2at_mm.attacks.foreign import Foolbox, ForeignAttack, TorchAttacks
from m2at_mm.attacks.losses import cross_entropy, kl_divergence, margin
from m2at_mm.attacks.pgd import FGSM, NFGSM, PGD, pgd
from m2at_mm.attacks.second_opinion import SecondOpinion
from m2at_mm.attacks.threat_model import ThreatModel, parse_pixels
from m2at_mm.attacks.transfer import Transfer

__all__ = [
    'FGSM',
    'NFGSM',
    'PGD',
    'Attack',
    'AutoAttack',
    'Batch',
    'Foolbox',
    'ForeignAttack',
    'SecondOpinion',
    'ThreatModel',
    'TorchAttacks',
    'Transfer',
    'attack_mode',
    'cross_entropy',
    'differentiable_checkpoints',
    'kl_divergence',
    'margin',
    'own_random_stream',
    'parse_pixels',
    'pgd',
]
