"""Notices when adversarial training collapses, and acts."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from m2at_mm.attacks import FGSM, PGD, attack_mode, own_random_stream
from m2at_mm.attacks.logits import predicted_labels
from m2at_mm.checks import check_choice, check_count, check_number
from m2at_mm.hooks.watched_images import watched_batches, watched_loader
from m2at_mm.model_wrappers import bare_model
from m2at_mm.registry import HOOKS
from m2at_mm.runner import rollback, train_loops

_KEY = 'collapse_guard'
_ACTIONS = ('warn', 'stop', 'rollback', 'lower_step')
# The host waits for a GPU whenever it reads a loss.
_ITERS_BETWEEN_READINGS = 10


@HOOKS.register_module()
@dataclass(eq=False)
class CollapseGuardHook(Hook):
    """Watch for the ways in which adversarial training fails.

    Regularly the network is attacked on the same few images, by FGSM from the
    clean image and by PGD:

    - catastrophic overfitting (arXiv 2001.03994): the accuracy under PGD is
      below half of that under FGSM, and more than ``max_gap`` points lower;
    - chance: the clean accuracy is no better than guessing, after
      ``patience`` or after it was better once.

    A loss that is not finite is noticed after at most 10 iterations, and
    before a check, a checkpoint or a validation; unless the training can go
    back, it ends with an error. All failures are logged as errors.

    Args:
        action (str): ``'warn'``: training goes on. ``'stop'``: it ends after
            the epoch or iteration. ``'rollback'``: weights, average weights
            and optimiser go back to the last checkpoint that was sound;
            schedule, data and random draws go on. ``'lower_step'``: the same,
            and the steps of the train attack become ``step_factor`` of their
            length for the rest of the training.
        interval (int): Epochs or iterations between checks.
        num_images (int): Images of the validation set, else of the training
            set, spread over its classes.
        steps (int): Steps of PGD, each a quarter of the radius long.
        max_gap (float): In points of accuracy.
        patience (int): Epochs or iterations in which guessing is no failure.
        step_factor (float): For ``'lower_step'``, in (0, 1).
        max_rollbacks (int): After these training is stopped.
        by_epoch (bool): Whether ``interval`` and ``patience`` count epochs.

    Raises:
        ValueError: An argument is out of its range, or the model, the loop,
            the train attack or the checkpoints do not allow the action.
        FloatingPointError: The loss is not finite.
    """

    # After the hooks that average weights and statistics.
    priority = 'BELOW_NORMAL'

    action: str = 'stop'
    interval: int = 1
    num_images: int = 128
    steps: int = 10
    max_gap: float = 10.0
    patience: int = 5
    step_factor: float = 0.5
    max_rollbacks: int = 3
    by_epoch: bool = True

    def __post_init__(self) -> None:
        check_choice('action', self.action, _ACTIONS)
        for name in ('interval', 'num_images', 'patience', 'max_rollbacks'):
            check_count(name, getattr(self, name))
        check_number('max_gap', self.max_gap, above=0, below=100)
        check_number('step_factor', self.step_factor, above=0, below=1)
        self._pgd = PGD(steps=self.steps)
        self._goes_back = self.action in ('rollback', 'lower_step')
        self._batches: list[tuple[Tensor, Tensor]] = []
        self._first_bad: Tensor | None = None
        # What a resumed run must know; it is in each checkpoint.
        self._memory: dict[str, Any] = dict(
            was_better=False,  # than guessing, in any check
            sound=False,  # the weights are those that were found sound
            ckpt_before=None,  # the last one when they were
            sound_ckpt=None,
            rollbacks=0,
            step_factor=1.0,
        )

    def before_train(self, runner: Runner) -> None:
        if self.by_epoch:
            setting = f'guard.interval={self.interval}'
            train_loops.refuse_epochs(runner, setting)
        model = bare_model(runner.model)
        if not hasattr(model, 'threat_model'):
            raise ValueError(
                'CollapseGuardHook attacks an m2at_mm.AdversarialClassifier, '
                f'but the model is a {type(model).__name__}: wrap it, or '
                'remove the hook'
            )
        if self.action == 'lower_step':
            rollback.check_step(model)
        if self._goes_back:
            rollback.check_checkpoints(runner, self.interval, self.by_epoch)
        hub = runner.message_hub
        self._memory.update(hub.runtime_info.get(_KEY, {}))
        hub.update_info(_KEY, self._memory)
        if self._memory['step_factor'] != 1:
            _scale_step(model, self._memory['step_factor'])

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        if self._memory['sound']:
            saved = runner.message_hub.runtime_info.get('last_ckpt')
            if saved != self._memory['ckpt_before']:
                self._memory['sound_ckpt'] = saved
            self._memory['sound'] = False

    def after_train_iter(
        self, runner: Runner, *_: Any, outputs: Any = None, **__: Any
    ) -> None:
        done = runner.iter + 1
        loss = (outputs or {}).get('loss')
        if loss is not None:
            finite = loss.detach().isfinite().all()
            first = torch.where(finite, math.inf, float(done))
            if self._first_bad is not None:
                first = torch.minimum(first, self._first_bad)
            self._first_bad = first
        check = not self.by_epoch and done % self.interval == 0
        often = done % _ITERS_BETWEEN_READINGS == 0
        if check or often or train_loops.saves_or_validates(runner, done):
            self.look_at_losses(runner)
        if check:
            self._check(runner, 'iteration', done)

    def after_train_epoch(self, runner: Runner) -> None:
        self.look_at_losses(runner)
        done = runner.epoch + 1
        if self.by_epoch and done % self.interval == 0:
            self._check(runner, 'epoch', done)

    def look_at_losses(self, runner: Runner) -> None:
        """Act on the losses since the last time; all processes must."""
        if self._first_bad is None:
            return
        # Where one process goes back, all must.
        first, self._first_bad = self._first_bad, None
        dist.all_reduce(first, 'min')
        if math.isinf(float(first)):
            return
        problem = f'the loss is not finite in iteration {int(first)}'
        runner.logger.error(problem)
        if not self._go_back(runner):
            raise FloatingPointError(
                f'{problem}: lower the learning rate, set '
                'optim_wrapper.clip_grad or leave mixed precision, and go on '
                'with --resume from the last sound checkpoint'
            )

    def _check(self, runner: Runner, unit: str, done: int) -> None:
        found: list[Any] = [None]
        try:
            if dist.is_main_process():
                found = [self._measure(runner)]
        except Exception as error:  # the others wait for an answer
            found = [error]
        dist.broadcast_object_list(found)
        (figures,) = found
        if isinstance(figures, Exception):
            raise figures
        for name, value in figures.items():
            runner.message_hub.update_scalar(f'train/guard_{name}', value)
        problem = self._judge(figures, runner)
        if problem is None:
            self._found_sound(runner)
            return
        runner.logger.error(f'{problem} after {unit} {done}')
        if self.action != 'warn' and not self._go_back(runner):
            runner.logger.error('training stops here')
            runner.train_loop.stop_training = True

    def _measure(self, runner: Runner) -> dict[str, float]:
        model = bare_model(runner.model)
        device = next(model.parameters()).device
        if not self._batches:
            self._batches = watched_batches(runner, self.num_images)
        right: Counter[str] = Counter()
        with attack_mode(model), own_random_stream(device, 0), torch.no_grad():
            for batch in self._batches:
                images, labels = (one.to(device) for one in batch)
                given = model, images, labels, model.threat_model
                attacked = dict(fgsm=FGSM()(*given), pgd=self._pgd(*given))
                for name, inputs in (dict(clean=images) | attacked).items():
                    hits = predicted_labels(model(inputs)) == labels
                    right[name] += int(hits.sum())
        total = sum(len(labels) for _, labels in self._batches)
        return {name: 100 * hits / total for name, hits in right.items()}

    def _judge(self, figures: dict[str, float], runner: Runner) -> str | None:
        done = 1 + (runner.epoch if self.by_epoch else runner.iter)
        gap = figures['fgsm'] - figures['pgd']
        # At large radii several steps always do more than one.
        if gap > self.max_gap and 2 * figures['pgd'] < figures['fgsm']:
            return (
                f'catastrophic overfitting: {figures["fgsm"]:.1f} % under '
                f'FGSM, but {figures["pgd"]:.1f} % under PGD'
            )
        classes = bare_model(runner.model).num_classes
        if classes is None:
            return None
        number = min(self.num_images, len(watched_loader(runner).dataset))
        guessing = 1 / classes
        spread = math.sqrt(guessing * (1 - guessing) / number)
        if figures['clean'] > 100 * (guessing + 3 * spread):
            self._memory['was_better'] = True
        elif self._memory['was_better'] or done > self.patience:
            return (
                f'the clean accuracy, {figures["clean"]:.1f} %, is that of '
                f'guessing among {classes} classes'
            )
        return None

    def _found_sound(self, runner: Runner) -> None:
        last = runner.message_hub.runtime_info.get('last_ckpt')
        self._memory.update(sound=True, ckpt_before=last)

    def _go_back(self, runner: Runner) -> bool:
        if not self._goes_back:
            return False
        memory, error = self._memory, runner.logger.error
        path = memory['sound_ckpt']
        if path is None or not Path(path).is_file():
            error('there is no sound checkpoint to go back to')
            return False
        if memory['rollbacks'] == self.max_rollbacks:
            error(f'went back {self.max_rollbacks} times already')
            return False
        memory['rollbacks'] += 1
        rollback.roll_back(runner, path)
        said = f'weights and optimiser are back at {path}'
        if self.action == 'lower_step':
            memory['step_factor'] *= self.step_factor
            _scale_step(bare_model(runner.model), self.step_factor)
            said += f', and steps at {memory["step_factor"]:g} of their length'
        error(said)
        self._found_sound(runner)
        return True


def _scale_step(model: Any, factor: float) -> None:
    model.train_attack.step_factor *= factor
