"""Hooks."""

from m2at_mm.hooks.attack_schedule_hook import AttackScheduleHook
from m2at_mm.hooks.collapse_guard_hook import CollapseGuardHook
from m2at_mm.hooks.input_check_hook import InputCheckHook

__all__ = ['AttackScheduleHook', 'CollapseGuardHook', 'InputCheckHook']
