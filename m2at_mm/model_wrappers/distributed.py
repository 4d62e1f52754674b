"""DistributedDataParallel on GPUs and on CPUs."""

from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import nn

from m2at_mm.registry import MODEL_WRAPPERS


def bare_model(model: Any) -> Any:
    """A runner's model without the wrapper for several processes, if any."""
    return model.module if is_model_wrapper(model) else model


@MODEL_WRAPPERS.register_module()
class AdversarialDistributedDataParallel(MMDistributedDataParallel):
    """MMEngine's DistributedDataParallel, also right on CPUs.

    There it leaves out the ``device_ids`` that MMEngine's runner passes. At
    the first training step it offsets PyTorch's seed, which is that of all
    processes, by the rank: starts and masks differ, weights and the order of
    the data do not. Arguments are those of
    :class:`mmengine.model.MMDistributedDataParallel`, with the defaults of
    MMEngine's runner.
    """

    def __init__(
        self, module: nn.Module, device_ids: Any = None, **kwargs: Any
    ) -> None:
        if all(p.device.type == 'cpu' for p in module.parameters()):
            device_ids = None
        kwargs = dict(broadcast_buffers=False) | kwargs
        super().__init__(module=module, device_ids=device_ids, **kwargs)
        self._draws_apart = get_rank() == 0

    def keep_random_streams(self) -> None:
        """Don't offset the seed: a resumed run goes on with its streams."""
        self._draws_apart = True

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> Any:
        """Train on a batch, see MMEngine's wrapper."""
        if not self._draws_apart:
            # Now, as resuming sets the common seed once more.
            torch.manual_seed(torch.initial_seed() + get_rank())
            self._draws_apart = True
        return super().train_step(data, optim_wrapper)
