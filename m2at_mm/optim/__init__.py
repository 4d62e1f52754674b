"""Optimiser wrappers."""

from m2at_mm.optim.awp_optim_wrapper import AWPAmpOptimWrapper, AWPOptimWrapper

__all__ = ['AWPAmpOptimWrapper', 'AWPOptimWrapper']
