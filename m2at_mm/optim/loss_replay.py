"""The loss of an iteration a second time, with the same random draws."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from m2at_mm.model_wrappers import AdversarialClassifier
from m2at_mm.runner.process_state import random_streams, set_random_streams


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
        self._start = random_streams()
        self._found: list[tuple[Tensor, dict[str, Any]]] = []

        def attack(*args: Any) -> Tensor:
            adversarial: Tensor = model.attack_in_training(*args)
            self._found.append((adversarial, random_streams()))
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
        set_random_streams(self._start)
        found = iter(self._found)

        def attack(*_: Any) -> Tensor:
            adversarial, streams = next(found)
            set_random_streams(streams)
            return adversarial

        return self.model.method.loss(self.model, attack, *self._call)
