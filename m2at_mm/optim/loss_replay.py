"""The loss of an iteration a second time, with the same random draws."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from m2at_mm.model_wrappers import AdversarialClassifier


class LossReplay:
    """Records one call of an adversarial classifier's loss, and repeats it.

    The repetition has the adversarial images that were found and the same
    draws, but the weights as they are then. Buffers, like batch norm's
    running statistics, are updated once.
    """

    def __init__(self, model: AdversarialClassifier) -> None:
        self.model = model
        self._call: tuple[Tensor, Tensor] | None = None

    def __enter__(self) -> LossReplay:
        self.model.loss_replay = self
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
