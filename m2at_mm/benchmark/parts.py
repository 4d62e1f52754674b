"""Where the time of an iteration goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from m2at_mm.benchmark.interleaving import now
from m2at_mm.model_wrappers.distributed import bare_model

#: The parts, in the order of an iteration.
PARTS = (
    'data',
    'preprocessing',
    'attack',
    'mask and mix',
    'loss and backward',
    'optimiser',
    'hooks',
)
# Of the model's training step, whose rest is loss and backward pass.
_INSIDE = ('preprocessing', 'attack', 'mask and mix', 'optimiser')
_STEP = 'training step'


class PartClock(Hook):
    """Splits the time of the Runner's iterations into :data:`PARTS`.

    On a GPU each part is waited for, so their sum is more than an iteration
    takes without this clock. On several processes the exchange of gradients
    is in the backward pass. The first iteration is not counted. After
    ``iterations`` more it ends the training with :class:`Finished`.

    Args:
        iterations (int): That are measured.

    Attributes:
        times (dict[str, list[float]]): By part, the seconds in each
            iteration.
        waits (dict[str, list[float]]): By part, the seconds among them in
            which the host had nothing to do but wait for the GPU. Where they
            are few, the host is what limits the speed.
    """

    #: After all other hooks, whose time counts.
    priority = 'LOWEST'

    class Finished(Exception):  # noqa: N818 (it is no error)
        """All iterations are measured."""

    def __init__(self, iterations: int = 5) -> None:
        self.iterations = iterations
        self.times: dict[str, list[float]] = {part: [] for part in PARTS}
        self.waits: dict[str, list[float]] = {part: [] for part in PARTS}
        self._iteration_end: float | None = None
        self._reset()

    def _reset(self) -> None:
        self._spent = dict.fromkeys((*PARTS, _STEP), 0.0)
        self._waited = dict.fromkeys((*PARTS, _STEP), 0.0)

    def before_train(self, runner: Runner) -> None:
        """Time what the Runner calls in an iteration, from now on.

        Args:
            runner (Runner): Its model is adversarial.
        """
        model = bare_model(runner.model)
        for owner, name, part in (
            (model.data_preprocessor, 'forward', 'preprocessing'),
            (model, 'attack_in_training', 'attack'),
            (model.method, 'mix', 'mask and mix'),
            (runner.optim_wrapper, 'step', 'optimiser'),
            (runner.optim_wrapper, 'zero_grad', 'optimiser'),
            (runner.model, 'train_step', _STEP),
        ):
            if hasattr(owner, name):
                owner.__dict__[name] = self._timed(getattr(owner, name), part)

    def _timed(
        self, function: Callable[..., Any], part: str
    ) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            since = now()
            result = function(*args, **kwargs)
            launched = time.perf_counter()
            end = now()
            self._spent[part] += end - since
            self._waited[part] += end - launched
            return result

        return timed

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """The batch is there: what came before was waiting for it."""
        if self._iteration_end is not None:
            self._spent['data'] = now() - self._iteration_end

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Note an iteration's parts."""
        end, spent = now(), self._spent
        if self._iteration_end is not None:
            whole = end - self._iteration_end
            step = spent.pop(_STEP)
            rest = step - sum(spent[part] for part in _INSIDE)
            spent['loss and backward'] = rest
            spent['hooks'] = whole - step - spent['data']
            waited = self._waited
            waited['loss and backward'] = waited[_STEP]
            for part in PARTS:
                self.times[part].append(spent[part])
                self.waits[part].append(waited[part])
        if len(self.times['data']) == self.iterations:
            raise self.Finished
        self._reset()
        self._iteration_end = now()
