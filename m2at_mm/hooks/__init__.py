"""Hooks."""

from m2at_mm.hooks.input_check_hook import InputCheckHook

__all__ = ['InputCheckHook']
