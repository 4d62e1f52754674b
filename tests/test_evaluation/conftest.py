"""Evaluations of models on images in memory."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from evaluation_support import samples_of
from torch import nn

from m2at_mm.attacks import ThreatModel
from m2at_mm.evaluation import Outcomes, ResultStore, RobustnessEvaluation

Evaluate = Callable[..., tuple[list[Outcomes], dict[str, Any]]]


@pytest.fixture()
def evaluate(tmp_path: Path, cifar10_images: Callable) -> Evaluate:
    """Function of a model and attacks, evaluated on CIFAR-10 test images."""

    def run(
        model: nn.Module,
        attacks: Sequence[str],
        num: int = 40,
        eps: Sequence[str] = ('8/255',),
        folder: str = 'store',
        images_folder: Path | None = None,
        **settings: Any,
    ) -> tuple[list[Outcomes], dict[str, Any]]:
        evaluation = RobustnessEvaluation(
            model,
            samples_of(*cifar10_images(num)),
            ResultStore(tmp_path / folder, {}, images_folder),
            **settings,
        )
        threats = [ThreatModel('linf', radius) for radius in eps]
        return evaluation.run(attacks, threats)

    return run
