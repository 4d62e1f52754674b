"""What a report measures with a run's own network and test images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor

from m2at_mm import cli
from m2at_mm.attacks import ThreatModel, own_random_stream
from m2at_mm.attacks.logits import predicted_labels
from m2at_mm.evaluation import (
    Outcomes,
    ResultStore,
    RobustnessEvaluation,
    Samples,
)
from m2at_mm.evaluation.attackable import Attackable
from m2at_mm.evaluation.named_attacks import plan_attack
from m2at_mm.evaluation.results import make_results
from m2at_mm.model_wrappers import AdversarialClassifier, bare_model
from m2at_mm.registry import TASK_UTILS
from m2at_mm.reporting.loss_surface import LossSurface, loss_surfaces
from m2at_mm.reporting.run_log import RunLog

#: The attack of everything that is measured here.
ATTACK = 'pgd20'
# Radii of the sweep, in units of the run's own.
_RADII = (0.25, 0.5, 1.0, 1.5, 2.0)
_NUM_EXAMPLES = 6
_NUM_SURFACES = 3


@dataclass(frozen=True)
class Example:
    """An image before and after the attack.

    Attributes:
        clean (np.ndarray): RGB in [0, 1], shape (H, W, 3).
        adversarial (np.ndarray): Same.
        label (int): The truth.
        predicted (tuple[int, float]): Class and probability, clean; class
            -1 where the logits are not finite.
        attacked (tuple[int, float]): The same under attack.
    """

    clean: np.ndarray
    adversarial: np.ndarray
    label: int
    predicted: tuple[int, float]
    attacked: tuple[int, float]


@dataclass(frozen=True)
class Measurement:
    """What was measured of a run.

    Attributes:
        threat_model (ThreatModel): The run's own.
        outcome (Outcomes): Predictions at the run's own radius.
        results (dict): As in ``results.json``, with ``sweep``.
        examples (list[Example]): A few of the images, of several classes.
        surfaces (list[LossSurface]): Around the first of them.
    """

    threat_model: ThreatModel
    outcome: Outcomes
    results: dict[str, Any]
    examples: list[Example]
    surfaces: list[LossSurface]


def measure(run: RunLog, num_images: int) -> Measurement:
    """Attack some test images with the run's checkpoint.

    Nothing is written into the work dir.

    Args:
        run (RunLog): The run, with a checkpoint.
        num_images (int): Test images, at most, spread over the classes.

    Returns:
        Measurement: With predictions on all of them.

    Raises:
        OSError: The data are missing.
        ValueError: Data, checkpoint and config don't fit each other.
        TypeError: The model is not adversarial.
    """
    with TemporaryDirectory() as folder:
        model, samples = _load(run, Path(folder), num_images)
        evaluation = RobustnessEvaluation(
            model, samples, ResultStore(Path(folder, 'evaluation'), {})
        )
        outcomes, probes = evaluation.run([ATTACK], _radii(model.threat_model))
    few = samples.spread(_NUM_EXAMPLES)
    images, labels = next(iter(samples.batches([few])))
    shown = slice(_NUM_SURFACES)
    return Measurement(
        threat_model=model.threat_model,
        outcome=outcomes[0],
        results=make_results(outcomes, probes),
        examples=_examples(model, images, labels),
        surfaces=loss_surfaces(
            Attackable(model),
            images[shown],
            labels[shown],
            model.threat_model,
        ),
    )


def class_names(config: dict[str, Any]) -> Sequence[str] | None:
    """The names of the test dataset's classes, None if it tells none.

    Args:
        config (dict): Of a run; its data need not be there.
    """
    from mmpretrain.registry import DATASETS

    dataset = (config.get('test_dataloader') or {}).get('dataset') or {}
    given = (dataset.get('metainfo') or {}).get('classes')
    if given is None and dataset.get('type') is not None:
        kind = dataset['type']
        if not isinstance(kind, type):
            kind = DATASETS.get(str(kind))
        given = (getattr(kind, 'METAINFO', None) or {}).get('classes')
    return given if isinstance(given, (list, tuple)) else None


def _load(
    run: RunLog, folder: Path, num_images: int
) -> tuple[AdversarialClassifier, Samples]:
    cfg = _config(run, folder)
    runner = cli.build_trained_runner(
        cfg, argparse.Namespace(launcher='none', local_rank=0)
    )
    model = bare_model(runner.model).eval()
    loader = runner.test_dataloader
    samples = Samples(
        loader.dataset,
        model.data_preprocessor,
        loader.collate_fn,
        min(num_images, len(loader.dataset)),
    )
    return model, samples


def _config(run: RunLog, folder: Path) -> Config:
    """The run's config, set up for its test images alone."""
    cfg = cli.load_adversarial_config(str(run.config_file))
    if cfg.get('test_dataloader') is None:
        raise ValueError(
            'the config has no test_dataloader, so there are no test images'
        )
    cfg.work_dir = str(folder)
    cfg.experiment_name = folder.name  # MMEngine keeps one log per name
    cfg.log_level = 'WARNING'
    cfg.load_from, cfg.resume = str(run.checkpoint), False
    cfg.test_cfg = dict()
    cli.merge_common_options(
        cfg,
        argparse.Namespace(
            launcher='none', cfg_options=None, no_pin_memory=True
        ),
    )
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    return cfg


def _radii(own: ThreatModel) -> list[ThreatModel]:
    """The run's own radius first, then smaller and larger ones."""
    largest = 1.0 if own.norm == 'linf' else float('inf')
    others = [own.eps * factor for factor in _RADII if factor != 1]
    return [
        own,
        *(
            own.with_eps(eps)
            for eps in others
            if own.eps < eps <= largest or 0 < eps < own.eps
        ),
    ]


def _examples(
    model: AdversarialClassifier, images: Tensor, labels: Tensor
) -> list[Example]:
    (_, settings), *_ = plan_attack(ATTACK, 2).parts
    attack = TASK_UTILS.build(settings)
    with own_random_stream(images.device, 0):
        adversarial = attack(
            Attackable(model), images, labels, model.threat_model
        )
    with torch.no_grad():
        before, after = (
            _predictions(model(given)) for given in (images, adversarial)
        )
    return [
        Example(
            clean=_pixels(images[n]),
            adversarial=_pixels(adversarial[n]),
            label=int(labels[n]),
            predicted=before[n],
            attacked=after[n],
        )
        for n in range(len(images))
    ]


def _predictions(logits: Tensor) -> list[tuple[int, float]]:
    shares = logits.float().softmax(1).amax(1).tolist()
    return list(zip(predicted_labels(logits).tolist(), shares))


def _pixels(image: Tensor) -> np.ndarray:
    return image.cpu().expand(3, -1, -1).permute(1, 2, 0).numpy()
