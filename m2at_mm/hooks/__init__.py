"""Hooks."""

from m2at_mm.hooks.attack_schedule_hook import AttackScheduleHook
from m2at_mm.hooks.collapse_guard_hook import CollapseGuardHook
from m2at_mm.hooks.input_check_hook import InputCheckHook
from m2at_mm.hooks.rng_state_hook import RNGStateHook

__all__ = [
    'AttackScheduleHook',
    'CollapseGuardHook',
    'InputCheckHook',
    'RNGStateHook',
]
