"""Notices when adversarial training collapses, and acts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import Runner
from torch import Tensor

from m2at_mm.attacks import FGSM, PGD, attack_mode, own_random_stream
from m2at_mm.attacks.logits import predicted_labels
from m2at_mm.checks import check_count
from m2at_mm.evaluation.samples import Samples
from m2at_mm.model_wrappers import bare_model
from m2at_mm.registry import HOOKS
from m2at_mm.runner.loop_events import (
    checkpoint_follows,
    counts_epochs,
    refuse_epochs,
    validation_follows,
)
from m2at_mm.runner.rollback import check_checkpoints, roll_back

ACTIONS = ('warn', 'stop', 'rollback', 'lower_step')
_KEY = 'collapse_guard'
# The host waits for a GPU whenever it reads a loss.
_ITERS_BETWEEN_READINGS = 10


@dataclass
class _Memory:
    """What a resumed run must know; it is in each checkpoint."""

    was_better: bool = False  # than guessing, in any check
    sound: bool = False  # the weights are those that were found sound
    ckpt_before: str | None = None  # the last one when they were
    sound_ckpt: str | None = None
    rollbacks: int = 0
    step_factor: float = 1.0


@HOOKS.register_module()
class CollapseGuardHook(Hook):
    """Watch for the ways in which adversarial training fails.

    After each ``interval`` epochs or iterations the network is attacked on
    the same few images, by FGSM from the clean image and by PGD:

    - catastrophic overfitting (arXiv 2001.03994): the network withstands the
      single step but not several, so the accuracy under PGD is less than half
      of that under FGSM, and more than ``max_gap`` points below it;
    - chance: the clean accuracy is no better than guessing, after
      ``patience`` or after it was better once.

    A loss that is not finite is noticed after at most 10 iterations, and
    always before a check, a checkpoint or a validation. What was found is
    logged as an error, and then:

    - ``'warn'``: nothing more; but training ends with an error on a loss that
      is not finite;
    - ``'stop'``: training ends after the epoch or iteration, or with an error
      on a loss that is not finite;
    - ``'rollback'``: weights, average weights and optimiser go back to the
      last checkpoint that was sound; schedule, data and random draws go on;
    - ``'lower_step'``: the same, and the train attack's step becomes
      ``step_factor`` of its length for the rest of the training, also of a
      length that depends on the radius or that is scheduled.

    Args:
        action (str): One of the four. Defaults to ``'stop'``.
        interval (int): Epochs between checks, or iterations. Defaults to 1.
        num_images (int): Of the validation set, or of the training set where
            there is none, spread over its classes. Defaults to 128.
        steps (int): Of PGD, each a quarter of the radius. Defaults to 10.
        max_gap (float): In points of accuracy. Defaults to 10.0.
        patience (int): Epochs, or iterations, in which guessing is no
            failure. Defaults to 5.
        step_factor (float): For ``'lower_step'``, in (0, 1). Defaults to 0.5.
        max_rollbacks (int): After this many, training is stopped. Defaults
            to 3.
        by_epoch (bool): Whether ``interval`` and ``patience`` count epochs,
            else iterations, as a loop by iterations needs. Defaults to True.

    Raises:
        ValueError: An argument is out of its range. At the start of training,
            the model is no AdversarialClassifier, the loop has no epochs to
            count, there is no step to lower, or no checkpoint would be there
            to go back to.
        FloatingPointError: In training, the loss is not finite and there is
            no sound checkpoint to go back to.

    Example:
        >>> default_hooks = dict(
        ...     collapse_guard=dict(
        ...         type='m2at_mm.CollapseGuardHook', action='rollback'))
    """

    # After the hooks that average weights and statistics.
    priority = 'BELOW_NORMAL'

    def __init__(
        self,
        action: str = 'stop',
        interval: int = 1,
        num_images: int = 128,
        steps: int = 10,
        max_gap: float = 10.0,
        patience: int = 5,
        step_factor: float = 0.5,
        max_rollbacks: int = 3,
        by_epoch: bool = True,
    ) -> None:
        if action not in ACTIONS:
            raise ValueError(
                f'action={action!r} is unknown: choose one of {list(ACTIONS)}'
            )
        for name, number in (
            ('interval', interval),
            ('num_images', num_images),
            ('patience', patience),
            ('max_rollbacks', max_rollbacks),
        ):
            check_count(name, number)
        if not 0 < max_gap < 100:
            raise ValueError(f'max_gap={max_gap!r} must be in (0, 100) points')
        if not 0 < step_factor < 1:
            raise ValueError(f'step_factor={step_factor!r} must be in (0, 1)')
        self.action = action
        self.interval = interval
        self.num_images = num_images
        self.max_gap = max_gap
        self.patience = patience
        self.step_factor = step_factor
        self.max_rollbacks = max_rollbacks
        self.by_epoch = by_epoch
        self._attacks = dict(fgsm=FGSM(), pgd=PGD(steps=steps))
        self._batch: tuple[Tensor, Tensor] | None = None
        self._memory = _Memory()
        self._first_bad: Tensor | None = None

    def before_train(self, runner: Runner) -> None:
        """Check what the action needs, and go on from a checkpoint.

        Raises:
            ValueError: See :class:`CollapseGuardHook`.
        """
        if self.by_epoch:
            refuse_epochs(
                runner, f'CollapseGuardHook.interval={self.interval}'
            )
        model = bare_model(runner.model)
        if not hasattr(model, 'threat_model'):
            raise ValueError(
                'CollapseGuardHook attacks an m2at_mm.AdversarialClassifier, '
                f'but the model is a {type(model).__name__}: wrap it, or '
                'remove the hook'
            )
        if self.action == 'lower_step':
            _check_step(model)
        if self._returns():
            check_checkpoints(runner, self.interval, self.by_epoch)
        known = runner.message_hub.runtime_info.get(_KEY, {})
        self._memory = _Memory(**known)
        if self._memory.step_factor != 1:
            _scale_step(model, self._memory.step_factor)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None
    ) -> None:
        """Note the checkpoint that was saved after a good check."""
        memory = self._memory
        if not memory.sound:
            return
        saved = runner.message_hub.runtime_info.get('last_ckpt')
        if saved != memory.ckpt_before:
            memory.sound_ckpt = saved
        memory.sound = False
        self._keep_memory(runner)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Look at the loss that is logged anyway, and check if it is due."""
        done = runner.iter + 1
        loss = (outputs or {}).get('loss')
        if loss is not None:
            finite = loss.detach().isfinite().all()
            first = torch.where(finite, math.inf, float(done))
            if self._first_bad is not None:
                first = torch.minimum(first, self._first_bad)
            self._first_bad = first
        check = not self.by_epoch and done % self.interval == 0
        if (
            check
            or done % _ITERS_BETWEEN_READINGS == 0
            or checkpoint_follows(runner)
            or (not counts_epochs(runner) and validation_follows(runner, done))
        ):
            self.look_at_losses(runner)
        if check:
            self._check(runner, f'iteration {done}')

    def after_train_epoch(self, runner: Runner) -> None:
        """Attack the fixed images and judge."""
        self.look_at_losses(runner)
        if self.by_epoch and (runner.epoch + 1) % self.interval == 0:
            self._check(runner, f'epoch {runner.epoch + 1}')

    def look_at_losses(self, runner: Runner) -> None:
        """Act on the losses since the last time; all processes must.

        Args:
            runner (Runner): Runner of the training.

        Raises:
            FloatingPointError: One was not finite, and by the action or for
                lack of a sound checkpoint training does not go back.
        """
        if self._first_bad is None:
            return
        # Where one process goes back, all must.
        first, self._first_bad = self._first_bad, None
        dist.all_reduce(first, 'min')
        if math.isinf(float(first)):
            return
        problem = f'the loss is not finite in iteration {int(first)}'
        runner.logger.error(problem)
        if not self._returns() or not self._go_back(runner):
            raise FloatingPointError(
                f'{problem}: lower the learning rate, clip gradients '
                '(optim_wrapper.clip_grad) or leave mixed precision, and go '
                'on with --resume from the last sound checkpoint'
            )

    def _check(self, runner: Runner, when: str) -> None:
        found: list[Any] = [None]
        if dist.is_main_process():
            try:
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
        self._keep_memory(runner)
        runner.logger.error(f'{problem} after {when}')
        if self._returns() and self._go_back(runner):
            return
        if self.action != 'warn':
            runner.logger.error('training stops here')
            runner.train_loop.stop_training = True

    def _measure(self, runner: Runner) -> dict[str, float]:
        """Accuracy in per cent on the fixed images."""
        model = bare_model(runner.model)
        device = next(model.parameters()).device
        if self._batch is None:
            # Reading draws, too: a loader draws a seed for its workers.
            with own_random_stream(device):
                self._batch = self._load(runner)
        images, labels = self._batch
        found = {'clean': images}
        with attack_mode(model), own_random_stream(device, 0):
            for name, attack in self._attacks.items():
                found[name] = attack(model, images, labels, model.threat_model)
            with torch.no_grad():
                right = {
                    name: (predicted_labels(model(attacked)) == labels)
                    .float()
                    .mean()
                    for name, attacked in found.items()
                }
        return {name: 100 * float(share) for name, share in right.items()}

    def _load(self, runner: Runner) -> tuple[Tensor, Tensor]:
        loader = _loader(runner)
        samples = Samples(
            loader.dataset,
            bare_model(runner.model).data_preprocessor,
            loader.collate_fn,
            min(self.num_images, len(loader.dataset)),
        )
        return next(iter(samples.batches([list(range(len(samples)))])))

    def _judge(self, figures: dict[str, float], runner: Runner) -> str | None:
        """What is wrong, None if nothing is."""
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
        guessing = 1 / classes
        number = min(self.num_images, len(_loader(runner).dataset))
        spread = math.sqrt(guessing * (1 - guessing) / number)
        better = figures['clean'] > 100 * (guessing + 3 * spread)
        done = (runner.epoch if self.by_epoch else runner.iter) + 1
        failed = not better and (
            self._memory.was_better or done > self.patience
        )
        self._memory.was_better |= better
        if failed:
            return (
                f'the clean accuracy, {figures["clean"]:.1f} %, is that of '
                f'guessing among {classes} classes'
            )
        return None

    def _returns(self) -> bool:
        return self.action in ('rollback', 'lower_step')

    def _keep_memory(self, runner: Runner) -> None:
        runner.message_hub.update_info(_KEY, asdict(self._memory))

    def _found_sound(self, runner: Runner) -> None:
        self._memory.sound = True
        self._memory.ckpt_before = runner.message_hub.runtime_info.get(
            'last_ckpt'
        )
        self._keep_memory(runner)

    def _go_back(self, runner: Runner) -> bool:
        """Load the last sound checkpoint, if there is one."""
        memory = self._memory
        path = memory.sound_ckpt
        if path is None or not Path(path).is_file():
            runner.logger.error('there is no sound checkpoint to go back to')
            return False
        if memory.rollbacks == self.max_rollbacks:
            runner.logger.error(f'went back {memory.rollbacks} times already')
            return False
        memory.rollbacks += 1
        roll_back(runner, path)
        runner.logger.error(f'weights and optimiser are back at {path}')
        if self.action == 'lower_step':
            memory.step_factor *= self.step_factor
            _scale_step(bare_model(runner.model), self.step_factor)
            runner.logger.error(
                f"the train attack's step is {memory.step_factor:g} of the "
                'configured one'
            )
        self._found_sound(runner)
        return True


def _check_step(model: Any) -> None:
    """Refuse to lower a step that is not taken in training."""
    attack, method = model.train_attack, type(model.method).__name__
    needed = model.method.needs_attack
    if not needed or attack.length_of_step(model.threat_model) is None:
        used = type(attack).__name__ if needed else 'none'
        raise ValueError(
            "action='lower_step' needs a train attack whose step can be "
            f'lowered (PGD, FGSM or NFGSM), but method={method} uses {used}: '
            "choose action='rollback'"
        )


def _scale_step(model: Any, factor: float) -> None:
    """Shorten the train attack's step, whatever sets its length."""
    model.train_attack.step_factor *= factor


def _loader(runner: Runner) -> Any:
    """Of the validation images, or the training images without any."""
    validation = runner.val_loop
    if validation is None:
        return runner.train_dataloader
    return validation.dataloader
