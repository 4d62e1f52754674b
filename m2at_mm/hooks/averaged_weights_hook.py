"""Averaged weights by one key."""

from typing import Any

from mmengine.hooks import EMAHook

from m2at_mm.registry import HOOKS


@HOOKS.register_module()
class AveragedWeightsHook(EMAHook):
    """MMEngine's ``EMAHook`` as adversarial training uses it.

    Validation, and with it the choice of the best checkpoint, sees the
    averaged weights; a checkpoint has them as ``state_dict`` and those that
    are trained as ``ema_state_dict``.

    Args:
        momentum (float): Share of the newest weights. Defaults to 0.005, a
            decay of 0.995 in each iteration (arXiv 2103.01946).
        update_buffers (bool): Whether batch norm's running statistics are
            averaged as well. Defaults to True.
        **kwargs (Any): See ``EMAHook``.
    """

    def __init__(
        self,
        momentum: float = 0.005,
        update_buffers: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            momentum=momentum, update_buffers=update_buffers, **kwargs
        )
