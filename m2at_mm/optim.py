"""Optimiser wrappers: adversarial weight perturbation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from mmengine import dist
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import Tensor, nn

from m2at_mm.checks import check_count, check_number
from m2at_mm.model_wrappers import AdversarialClassifier, bare_model
from m2at_mm.registry import OPTIM_WRAPPERS

__all__ = ['AWPAmpOptimWrapper', 'AWPOptimWrapper']


class LossReplay:
    """Records one call of an adversarial classifier's loss, and repeats it.

    The repetition has the same adversarial images and draws, but the weights
    as they are then. Buffers are updated once.
    """

    def __init__(self, model: AdversarialClassifier) -> None:
        self.model = model
        self._call: tuple[Tensor, Tensor] | None = None

    def __enter__(self) -> LossReplay:
        self.model.loss_replay = self.record
        return self

    def __exit__(self, *error: object) -> None:
        self.model.loss_replay = None

    def record(self, images: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The method's losses, the first time; the model calls this."""
        model, self._call = self.model, (images, target)
        self._buffers = [one.clone() for one in model.classifier.buffers()]
        self._start = _random_state(images.device)
        self._found: list[tuple[Tensor, list[Tensor]]] = []

        def attack(*args: Any) -> Tensor:
            adversarial: Tensor = model.attack_in_training(*args)
            self._found.append((adversarial, _random_state(images.device)))
            return adversarial

        return model.method.loss(model, attack, images, target)

    def repeat(self) -> dict[str, Tensor]:
        """The same losses with the present weights."""
        if self._call is None:
            raise RuntimeError(
                'no loss was recorded: call the model with '
                "mode='loss' inside the LossReplay"
            )
        with torch.no_grad():
            buffers = self.model.classifier.buffers()
            for buffer, old in zip(buffers, self._buffers):
                buffer.copy_(old)
        device = self._call[0].device
        _set_random_state(self._start, device)
        found = iter(self._found)

        def attack(*_: Any) -> Tensor:
            adversarial, state = next(found)
            _set_random_state(state, device)
            return adversarial

        return self.model.method.loss(self.model, attack, *self._call)


def _random_state(device: torch.device) -> list[Tensor]:
    on_gpu = device.type == 'cuda'
    gpu = [torch.cuda.get_rng_state(device)] if on_gpu else []
    return [torch.get_rng_state(), *gpu]


def _set_random_state(state: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    for gpu in state[1:]:
        torch.cuda.set_rng_state(gpu, device)


@OPTIM_WRAPPERS.register_module()
class AWPOptimWrapper(OptimWrapper):
    """MMEngine's OptimWrapper with adversarial weight perturbation.

    Wu et al., "Adversarial Weight Perturbation Helps Robust Generalization",
    arXiv 2004.05884. With g the gradient of the training loss at the weights
    w, each weight tensor of more than one dimension is moved by
    v = gamma * ||w|| / ||g|| * g; the optimiser steps from w along the
    gradient at w + v. The images are attacked once per iteration, and all
    random draws are the same in both passes. With several processes v is made
    from their mean gradient; with gradient accumulation each part of the
    batch has its own.

    Args:
        *args: See :class:`mmengine.optim.OptimWrapper`.
        gamma (float): Size of the perturbation relative to the weights, not
            negative. The authors take 0.01 for PGD-AT and 0.005 for TRADES.
        warmup_iters (int): Iterations before the weights are perturbed.
        **kw: See :class:`mmengine.optim.OptimWrapper`.
    """

    def __init__(
        self, *args: Any, gamma: float = 0.01, warmup_iters: int = 0, **kw: Any
    ) -> None:
        super().__init__(*args, **kw)
        check_number('gamma', gamma, 0)
        check_count('warmup_iters', warmup_iters, 0)
        self.gamma = gamma
        self.warmup_iters = warmup_iters
        self._replay: LossReplay | None = None

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Record the loss that is computed inside."""
        bare = bare_model(model)
        if not isinstance(bare, AdversarialClassifier):
            raise TypeError(
                f'{type(self).__name__} needs an m2at_mm.AdversarialClassifier'
                f', but the model is a {type(bare).__name__}: wrap it, or use '
                'the OptimWrapper of MMEngine'
            )
        if not bare.method.repeatable:
            raise TypeError(
                f'{type(bare.method).__name__} moves its perturbation with '
                'every backward pass, and adversarial weight perturbation '
                'needs a second one: choose another method, or OptimWrapper'
            )
        if self._inner_count >= self.warmup_iters:
            self._replay = LossReplay(bare)
        with super().optim_context(model), self._replay or nullcontext():
            yield

    def update_params(
        self, loss: Tensor, step_kwargs: Any = None, zero_kwargs: Any = None
    ) -> None:
        """Step from the old weights, along the gradient at the perturbed."""
        replay, self._replay = self._replay, None
        if replay is None:
            super().update_params(loss, step_kwargs, zero_kwargs)
            return
        model = replay.model
        with self._perturbed(model, loss):
            with super().optim_context(model):
                again, _ = model.parse_losses(replay.repeat())
            self.backward(self.scale_loss(again))
        if self.should_update():
            self.step(**(step_kwargs or {}))
            self.zero_grad(**(zero_kwargs or {}))

    @contextmanager
    def _perturbed(self, model: nn.Module, loss: Tensor) -> Iterator[None]:
        """The weights w + v inside, and exactly w again after."""
        every = model.parameters()
        weights = [p for p in every if p.requires_grad and p.ndim > 1]
        # The perturbation does not depend on the scale, but half precision
        # underflows without it.
        scaler = getattr(self, 'loss_scaler', None)
        loss = loss if scaler is None else scaler.scale(loss)
        gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
        dist.all_reduce_params(gradients, op='mean')
        kept = [weight.detach().clone() for weight in weights]
        try:
            with torch.no_grad():
                for weight, gradient in zip(weights, gradients):
                    weight.add_(_perturbation(weight, gradient, self.gamma))
            yield
        finally:
            with torch.no_grad():
                for weight, old in zip(weights, kept):
                    weight.copy_(old)


def _perturbation(weight: Tensor, gradient: Tensor, gamma: float) -> Tensor:
    """Gamma * ||w|| / ||g|| * g; zero where g is zero or not finite."""
    length = gradient.norm()
    factor = gamma * weight.norm() / length
    usable = length.isfinite() & (length > 0)
    return torch.where(usable, factor * gradient, torch.zeros_like(gradient))


@OPTIM_WRAPPERS.register_module()
class AWPAmpOptimWrapper(AWPOptimWrapper, AmpOptimWrapper):
    """:class:`AWPOptimWrapper` with automatic mixed precision."""
