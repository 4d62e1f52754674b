"""Splits the time of a training iteration into its parts."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from benchmarking.timing import Finished, now
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

    On a GPU each part is waited for, so their sum exceeds the time of an
    iteration without this clock. On several processes the exchange of
    gradients is in the backward pass. The first iteration does not count;
    after ``iterations`` more it raises :class:`Finished`.

    Attributes:
        times (dict[str, list[float]]): By part, the seconds in each
            iteration.
        waits (dict[str, list[float]]): By part, the seconds among them in
            which the host only waited for the GPU. Where they are few, the
            host limits the speed.
    """

    #: After all other hooks, whose time counts.
    priority = 'LOWEST'

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations
        self.times: dict[str, list[float]] = {part: [] for part in PARTS}
        self.waits: dict[str, list[float]] = {part: [] for part in PARTS}
        self._spent: dict[str, float] = defaultdict(float)
        self._waited: dict[str, float] = defaultdict(float)
        self._end: float | None = None  # of the iteration before

    def before_train(self, runner: Runner) -> None:
        """Time what the Runner calls in an iteration, from now on."""
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

    def before_train_iter(self, *args: Any, **kwargs: Any) -> None:
        """The batch is there: until now the Runner waited for it."""
        if self._end is not None:
            self._spent['data'] = now() - self._end

    def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
        """Note an iteration's parts."""
        end, spent, waited = now(), self._spent, self._waited
        if self._end is not None:
            inside = sum(spent[part] for part in _INSIDE)
            spent['loss and backward'] = spent[_STEP] - inside
            spent['hooks'] = end - self._end - spent[_STEP] - spent['data']
            waited['loss and backward'] = waited[_STEP]
            for part in PARTS:
                self.times[part].append(spent[part])
                self.waits[part].append(waited[part])
        if len(self.times['data']) == self.iterations:
            raise Finished
        spent.clear()
        waited.clear()
        self._end = now()
