"""Times iterations in turns, their parts, the exchange, and validation."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch import Tensor, distributed, nn

from benchmarking.rivals import OURS, Batch, PlainLoop
from m2at_mm.model_wrappers.distributed import bare_model

#: The parts, in the order of an iteration.
PARTS = ['data', 'preprocessing', 'attack', 'mask and mix']
PARTS += ['loss and backward', 'optimiser', 'hooks']
# Of the model's training step, whose rest is loss and backward pass.
_INSIDE = ('preprocessing', 'attack', 'mask and mix', 'optimiser')
_STEP = 'training step'


class Finished(Exception):  # noqa: N818 (it is no error)
    """Ends a training whose iterations are all measured."""


class Interleaving(Hook):
    """Times the Runner's own iterations, and others between them.

    In each round every method of ours has a block of iterations in the
    Runner, data and hooks included, then every rival has one. So what slows
    the machine down for a while slows all of them. After a round to warm up
    and those that are measured, it raises :class:`Finished`.

    Given the Runner, ``methods`` gives functions by name that make its model
    train with a method, and ``rivals`` iterations by name. ``block`` is the
    number of iterations of each contestant in a round.

    Attributes:
        times (dict[str, list[list[float]]]): By name, the seconds of each
            iteration in each measured round.
        peak_memory (dict[str, int]): On a GPU by name, in bytes, beyond what
            all contestants hold between their blocks (each has weights,
            momenta and a batch).
    """

    #: After all other hooks, whose time counts.
    priority = 'LOWEST'

    def __init__(
        self,
        methods: Callable[[Runner], Mapping[str, Callable[[], Any]]],
        rivals: Callable[[Runner], Mapping[str, Callable[[], Any]]],
        rounds: int = 5,
        block: int = 3,
    ) -> None:
        self._get_contestants = methods, rivals
        self.rounds, self.block = rounds, block
        self.times: dict[str, list[list[float]]] = {}
        self.peak_memory: dict[str, int] = {}

    def before_train(self, runner: Runner) -> None:
        """Prepare all contestants, now that the network has its weights."""
        contestants = [get(runner) for get in self._get_contestants]
        self.methods, self.rivals = contestants
        self._turns = self._take_turns()
        next(self._turns)

    def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
        """Note an iteration's time, and go on to the next contestant."""
        if next(self._turns, Finished) is Finished:
            raise Finished

    def _take_turns(self) -> Iterator[None]:
        """Measure everything; each yield is an iteration of the Runner."""
        self.times = {name: [] for name in (*self.methods, *self.rivals)}
        for number in range(1 + self.rounds):
            for name, rounds in self.times.items():
                if name in self.methods:
                    self.methods[name]()
                held = _reset_peak_memory()
                block: list[float] = []
                since = now()
                while len(block) < self.block:
                    if name in self.methods:
                        yield
                    else:
                        self.rivals[name]()
                    block.append(now() - since)
                    since = now()
                if number:  # the first round warms up
                    rounds.append(block)
                if held is not None:
                    used = torch.cuda.max_memory_allocated() - held
                    before = self.peak_memory.get(name, 0)
                    self.peak_memory[name] = max(before, used)


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

    def _timed(self, function: Any, part: str) -> Callable[..., Any]:
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


def _reset_peak_memory() -> int | None:
    """What is allocated on the GPU in bytes, None without one."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def now() -> float:
    """Seconds on a steady clock, when all work on a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def time_all_reduce(model: nn.Module, rounds: int) -> dict[str, Any]:
    """Time the exchange of an iteration's gradients, with nothing beside it.

    Each process of the group calls this. In a training part of the exchange
    hides behind the backward pass, so this is the most that it costs where
    the processes arrive together: ``bytes`` of one process's gradients, and
    ``seconds`` to sum them, the median of the rounds after one to warm up.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.cat([torch.zeros_like(p).flatten() for p in weights])
    times = []
    for _ in range(rounds + 1):
        distributed.barrier()
        since = now()
        distributed.all_reduce(gradients)
        times.append(now() - since)
    size = gradients.numel() * gradients.element_size()
    return dict(bytes=size, seconds=median(times[1:]))


def time_validation(
    model: Any, batches: Sequence[Batch], rounds: int
) -> dict[str, Any]:
    """Clean and robust accuracy of the same images, computed in two ways.

    ``'m2at_mm'`` is what validation calls, ``predict`` with an eval attack;
    ``'plain'`` attacks all images with all steps, in eval mode. They take
    turns, in each round.

    The model has one eval attack, a ``PGD``. Images are in [0, 1], of shape
    (N, C, H, W), labels int64 of shape (N, ). The rounds come after one to
    warm up. ``times`` are the seconds by name and round in the shape that
    :func:`summarise` takes, and ``accuracy`` has by name the clean and the
    robust one, in per cent.

    Raises:
        ValueError: The model has not one eval attack.
    """
    if len(model.eval_attacks) != 1:
        raise ValueError(
            f'eval_attacks={sorted(model.eval_attacks)} must be one attack, '
            'to be compared with one loop'
        )
    model.eval()
    ((name, attack),) = model.eval_attacks.items()
    loop = PlainLoop(model, *batches[0], attack)
    loop.network.eval()

    def predict(images: Tensor, labels: Tensor) -> Tensor:
        samples = [DataSample().set_gt_label(n) for n in labels.tolist()]
        with torch.no_grad():
            found = model(images, samples, mode='predict')
        clean = [one.pred_label.item() for one in found]
        attacked = [one.adversarial_pred_labels[name] for one in found]
        return torch.tensor([clean, attacked])

    def by_hand(images: Tensor, labels: Tensor) -> Tensor:
        loop.load(images, labels)
        both = (loop.images, loop.attack())
        with torch.no_grad():
            return torch.stack([loop.network(one).argmax(1) for one in both])

    times: dict[str, list[list[float]]] = {OURS: [], 'plain': []}
    accuracy = {}
    for number in range(rounds + 1):
        for way, classify in {OURS: predict, 'plain': by_hand}.items():
            since = now()
            each = [classify(*one).cpu() == one[1].cpu() for one in batches]
            right = torch.cat(each, 1)
            if number:
                times[way].append([now() - since])
            accuracy[way] = (100 * right.float().mean(1)).tolist()
    return dict(times=times, accuracy=accuracy)
