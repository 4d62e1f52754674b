"""Hooks."""

from m2at_mm.hooks.adversarial_visualization_hook import (
    AdversarialVisualizationHook,
)
from m2at_mm.hooks.attack_schedule_hook import AttackScheduleHook
from m2at_mm.hooks.collapse_guard_hook import CollapseGuardHook
from m2at_mm.hooks.input_check_hook import InputCheckHook
from m2at_mm.hooks.preemption_hook import PreemptionHook
from m2at_mm.hooks.rng_state_hook import RNGStateHook
from m2at_mm.hooks.robust_overfitting_hook import RobustOverfittingHook
from m2at_mm.hooks.safe_checkpoint_hook import SafeCheckpointHook
from m2at_mm.hooks.stock_hooks import (
    AveragedWeightsHook,
    RuntimeInfoHook,
    SyncBuffersHook,
)

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
