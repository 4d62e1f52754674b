"""Notices when adversarial training collapses, and acts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Optional

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import Runner
from torch import Tensor

from m2at_mm.arguments import check_count
from m2at_mm.attacks import (
    FGSM,
    PGD,
    attack_mode,
    own_random_stream,
    parse_pixels,
)
from m2at_mm.attacks.logits import predicted_labels
from m2at_mm.evaluation.samples import Samples
from m2at_mm.model_wrappers import bare_model
from m2at_mm.registry import HOOKS

ACTIONS = ('warn', 'stop', 'rollback', 'lower_step')
_GOOD = 'collapse_guard_good_checkpoint'
_FACTOR = 'collapse_guard_step_factor'


@HOOKS.register_module()
class CollapseGuardHook(Hook):
    """Watch for the ways in which adversarial training fails.

    After each ``interval`` epochs the network is attacked on the same few
    images, by FGSM from the clean image and by PGD:

    - catastrophic overfitting (arXiv 2001.03994): the network withstands the
      single step but not several, so the accuracy under PGD is less than half
      of that under FGSM, and more than ``max_gap`` points below it;
    - chance: the clean accuracy is no better than guessing, after ``patience``
      epochs or after it was better once.

    A loss that is not finite is noticed in its iteration. What was found is
    logged as an error, and then:

    - ``'warn'``: nothing more; but training ends with an error on a loss that
      is not finite;
    - ``'stop'``: training ends after the epoch, or with an error on a loss
      that is not finite;
    - ``'rollback'``: weights and optimiser go back to the last checkpoint that
      was sound, the schedule goes on;
    - ``'lower_step'``: the same, and the train attack's step becomes
      ``step_factor`` of its length for the rest of the training.

    Args:
        action (str): One of the four. Defaults to ``'stop'``.
        interval (int): Epochs between checks. Defaults to 1.
        num_images (int): Of the validation set, or of the training set where
            there is none, spread over its classes. Defaults to 128.
        steps (int): Of PGD, each a quarter of the radius. Defaults to 10.
        max_gap (float): In points of accuracy. Defaults to 10.0.
        patience (int): Epochs in which guessing is no failure. Defaults to 5.
        step_factor (float): For ``'lower_step'``, in (0, 1). Defaults to 0.5.
        max_rollbacks (int): After this many, training is stopped. Defaults
            to 3.

    Raises:
        ValueError: An argument is out of its range.
        FloatingPointError: In training, the loss is not finite and there is
            no sound checkpoint to go back to.

    Example:
        >>> default_hooks = dict(
        ...     collapse_guard=dict(
        ...         type='m2at_mm.CollapseGuardHook', action='rollback'))
    """

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
        self._attacks = dict(fgsm=FGSM(), pgd=PGD(steps=steps))
        self._batch: Optional[tuple[Tensor, Tensor]] = None
        self._was_better = self._sound = False
        self._rollbacks = 0

    def before_train(self, runner: Runner) -> None:
        """Lower the step again that an interrupted run had lowered."""
        factor = runner.message_hub.runtime_info.get(_FACTOR)
        if factor is not None:
            _scale_step(bare_model(runner.model), float(factor))

    def before_train_epoch(self, runner: Runner) -> None:
        """Note the checkpoint that was saved after a good check."""
        saved = runner.message_hub.runtime_info.get('last_ckpt')
        if self._sound and saved is not None:
            runner.message_hub.update_info(_GOOD, str(saved))
            self._sound = False

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Optional[dict[str, Any]] = None,
    ) -> None:
        """Look at the loss that is logged anyway, in all processes.

        Raises:
            FloatingPointError: It is not finite, and by the action or for
                lack of a sound checkpoint training does not go back.
        """
        loss = (outputs or {}).get('loss')
        if loss is None:
            return
        # Where one process goes back, all must.
        worst = (
            loss.detach()
            .float()
            .abs()
            .nan_to_num(nan=math.inf, posinf=math.inf)
        )
        dist.all_reduce(worst, 'max')
        if math.isfinite(float(worst)):
            return
        problem = 'the loss is not finite'
        runner.logger.error(f'{problem} in iteration {runner.iter + 1}')
        if not self._returns() or not self._go_back(runner):
            raise FloatingPointError(
                f'{problem}: lower the learning rate, clip gradients '
                '(optim_wrapper.clip_grad) or leave mixed precision, and go '
                'on with --resume from the last sound checkpoint'
            )

    def after_train_epoch(self, runner: Runner) -> None:
        """Attack the fixed images and judge."""
        if (runner.epoch + 1) % self.interval:
            return
        figures = [self._measure(runner) if dist.is_main_process() else None]
        dist.broadcast_object_list(figures)
        assert figures[0] is not None
        for name, value in figures[0].items():
            runner.message_hub.update_scalar(f'train/guard_{name}', value)
        problem = self._judge(figures[0], runner)
        self._sound = problem is None
        if problem is None:
            return
        runner.logger.error(f'{problem} after epoch {runner.epoch + 1}')
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
        validation = runner.val_loop
        loader = (
            runner.train_dataloader
            if validation is None
            else validation.dataloader
        )
        samples = Samples(
            loader.dataset,
            bare_model(runner.model).data_preprocessor,
            loader.collate_fn,
            min(self.num_images, len(loader.dataset)),
        )
        return next(iter(samples.batches([list(range(len(samples)))])))

    def _judge(
        self, figures: dict[str, float], runner: Runner
    ) -> Optional[str]:
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
        spread = math.sqrt(guessing * (1 - guessing) / self.num_images)
        better = figures['clean'] > 100 * (guessing + 3 * spread)
        failed = not better and (
            self._was_better or runner.epoch + 1 > self.patience
        )
        self._was_better |= better
        if failed:
            return (
                f'the clean accuracy, {figures["clean"]:.1f} %, is that of '
                f'guessing among {classes} classes'
            )
        return None

    def _returns(self) -> bool:
        return self.action in ('rollback', 'lower_step')

    def _go_back(self, runner: Runner) -> bool:
        """Load the last sound checkpoint, if there is one."""
        path = runner.message_hub.runtime_info.get(_GOOD)
        if path is None or not Path(path).is_file():
            runner.logger.error('there is no sound checkpoint to go back to')
            return False
        if self._rollbacks == self.max_rollbacks:
            runner.logger.error(f'went back {self._rollbacks} times already')
            return False
        self._rollbacks += 1
        checkpoint = runner.load_checkpoint(path)
        runner.optim_wrapper.load_state_dict(checkpoint['optimizer'])
        runner.logger.error(f'weights and optimiser are back at {path}')
        if self.action == 'lower_step':
            before = float(runner.message_hub.runtime_info.get(_FACTOR, 1))
            factor = before * self.step_factor
            runner.message_hub.update_info(_FACTOR, factor)
            _scale_step(bare_model(runner.model), self.step_factor)
            runner.logger.error(
                f"the train attack's step is {factor:g} of the configured one"
            )
        return True


def _scale_step(model: Any, factor: float) -> None:
    """Shorten the train attack's step, in whatever unit it has."""
    attack = model.train_attack
    if hasattr(attack, 'step'):  # of FGSM and N-FGSM, in radii
        attack.step *= factor
    elif attack.step_size is None:
        attack.step_size = factor * model.threat_model.eps / 4
    else:
        attack.step_size = factor * parse_pixels(attack.step_size, 'step_size')
