"""Hooks."""

from .adversarial_visualization_hook import AdversarialVisualizationHook
from .attack_schedule_hook import AttackScheduleHook
from .averaged_weights_hook import AveragedWeightsHook
from .collapse_guard_hook import CollapseGuardHook
from .input_check_hook import InputCheckHook
from .preemption_hook import PreemptionHook
from .rng_state_hook import RNGStateHook
from .robust_overfitting_hook import RobustOverfittingHook
from .stock_hooks import RuntimeInfoHook, SafeCheckpointHook, SyncBuffersHook

__all__ = [
    'AdversarialVisualizationHook',
    'AttackScheduleHook',
    'AveragedWeightsHook',
    'CollapseGuardHook',
    'InputCheckHook',
    'PreemptionHook',
    'RNGStateHook',
    'RobustOverfittingHook',
    'RuntimeInfoHook',
    'SafeCheckpointHook',
    'SyncBuffersHook',
]
