"""What a report measures with a run's own network and test images."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmpretrain.registry import DATASETS
from torch import Tensor, nn

from m2at_mm import cli
from m2at_mm.attacks import (
    ThreatModel,
    attack_mode,
    cross_entropy,
    margin,
    own_random_stream,
)
from m2at_mm.attacks.logits import predicted_labels
from m2at_mm.evaluation import (
    Outcomes,
    ResultStore,
    RobustnessEvaluation,
    Samples,
)
from m2at_mm.evaluation.attacked_model import Attackable
from m2at_mm.evaluation.named_attacks import plan_attack
from m2at_mm.evaluation.results import make_results
from m2at_mm.model_wrappers import AdversarialClassifier, bare_model
from m2at_mm.registry import TASK_UTILS
from m2at_mm.reporting.run_log import RunLog

#: The attack of everything that is measured here.
ATTACK = 'pgd20'
# Radii of the sweep besides the run's own, as multiples of it.
_RADII = (0.25, 0.5, 1.5, 2.0)
_NUM_EXAMPLES = 6
# What the command line of a tool would say.
_OPTIONS = argparse.Namespace(
    launcher='none', local_rank=0, cfg_options=None, no_pin_memory=True
)
_NUM_SURFACES = 3


@dataclass(frozen=True)
class Example:
    """An image before and after the attack.

    Attributes:
        clean (np.ndarray): RGB in [0, 1], shape (H, W, 3).
        adversarial (np.ndarray): Same.
        label (int): The true class.
        predicted (tuple[int, float]): Class and probability without attack;
            class -1 where the logits are not finite.
        attacked (tuple[int, float]): The same under attack.
    """

    clean: np.ndarray
    adversarial: np.ndarray
    label: int
    predicted: tuple[int, float]
    attacked: tuple[int, float]


@dataclass(frozen=True)
class LossSurface:
    """The loss on a grid around an image.

    Attributes:
        steps (np.ndarray): Positions on both axes in units of the radius,
            from -1 to 1, shape (P, ).
        loss (np.ndarray): Cross-entropy, shape (P, P): a row per step in the
            random direction, a column per step along the gradient.
        margin (np.ndarray): Best wrong logit minus the right one, same
            shape: above 0 the image is misclassified.
    """

    steps: np.ndarray
    loss: np.ndarray
    margin: np.ndarray


@dataclass(frozen=True)
class Measurement:
    """Measurements of a run.

    Attributes:
        outcome (Outcomes): Predictions at the run's own radius.
        results (dict): As in ``results.json``, with ``sweep``.
        examples (list[Example]): A few of the images, of several classes.
        surfaces (list[LossSurface]): Around the first of them.
    """

    outcome: Outcomes
    results: dict[str, Any]
    examples: list[Example]
    surfaces: list[LossSurface]


@dataclass(frozen=True)
class Report:
    """All data that a page shows.

    Attributes:
        runs (Sequence[RunLog]): At least one.
        measured (Mapping[str, Measurement]): By the name of a run.
        missing (Mapping[str, str]): Why a run has no measurement, by its
            name.
    """

    runs: Sequence[RunLog]
    measured: Mapping[str, Measurement] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def measure(run: RunLog, num_images: int) -> Measurement:
    """Attack some test images with the run's checkpoint.

    Nothing is written into the work dir.

    Args:
        run (RunLog): The run, with a checkpoint.
        num_images (int): Largest number of test images, spread over the
            classes.

    Raises:
        OSError: The data are missing.
        ValueError: Data, checkpoint and config do not fit each other.
        TypeError: The model is not adversarial.
    """
    with TemporaryDirectory() as folder:
        runner = cli.build_trained_runner(_config(run, Path(folder)), _OPTIONS)
        model = bare_model(runner.model).eval()
        loader, prepare = runner.test_dataloader, model.data_preprocessor
        dataset, collate = loader.dataset, loader.collate_fn
        count = min(num_images, len(dataset))
        samples = Samples(dataset, prepare, collate, count)
        store = ResultStore(Path(folder, 'evaluation'), {})
        evaluation = RobustnessEvaluation(model, samples, store)
        outcomes, probes = evaluation.run([ATTACK], _radii(model.threat_model))
    few = samples.spread(_NUM_EXAMPLES)
    images, labels = next(iter(samples.batches([few])))
    first = (images[:_NUM_SURFACES], labels[:_NUM_SURFACES])
    return Measurement(
        outcome=outcomes[0],
        results=make_results(outcomes, probes),
        examples=_examples(model, images, labels),
        surfaces=loss_surfaces(Attackable(model), *first, model.threat_model),
    )


def class_names(config: dict[str, Any]) -> Sequence[str] | None:
    """Names of the test dataset's classes, None if the config has none.

    The data themselves need not exist.
    """
    dataset = (config.get('test_dataloader') or {}).get('dataset') or {}
    given = (dataset.get('metainfo') or {}).get('classes')
    kind = dataset.get('type')
    if given is None and kind is not None:
        kind = kind if isinstance(kind, type) else DATASETS.get(str(kind))
        given = (getattr(kind, 'METAINFO', None) or {}).get('classes')
    return given if isinstance(given, (list, tuple)) else None


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
    cli.merge_common_options(cfg, _OPTIONS)
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    return cfg


def _radii(own: ThreatModel) -> list[ThreatModel]:
    """The run's own radius first, then smaller and larger ones."""
    largest = 1.0 if own.norm == 'linf' else float('inf')
    others = [own.eps * factor for factor in _RADII]
    return [own] + [own.with_eps(eps) for eps in others if 0 < eps <= largest]


def _examples(
    model: AdversarialClassifier, images: Tensor, labels: Tensor
) -> list[Example]:
    (_, settings), *_ = plan_attack(ATTACK, 2).parts
    attack = TASK_UTILS.build(settings)
    with own_random_stream(images.device, 0):
        adversarial = attack(
            Attackable(model), images, labels, model.threat_model
        )
    given = (images, adversarial)
    with torch.no_grad():
        before, after = (_predictions(model(one)) for one in given)
    clean, attacked = (
        one.cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
        for one in given
    )
    return [
        Example(*parts)
        for parts in zip(clean, attacked, labels.tolist(), before, after)
    ]


def _predictions(logits: Tensor) -> list[tuple[int, float]]:
    shares = logits.float().softmax(1).amax(1).tolist()
    return list(zip(predicted_labels(logits).tolist(), shares))


def loss_surfaces(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat_model: ThreatModel,
    points: int = 21,
) -> list[LossSurface]:
    """Loss and margin along the gradient and a random direction.

    A smooth slope along the gradient is what an attack can follow; a jagged
    or flat one is a sign of masked gradients (arXiv 1902.06705, section 4).
    Both directions end where ball and box end.

    Args:
        model (nn.Module): Maps images in [0, 1], shape (N, C, H, W), to
            logits of shape (N, K), in eval mode.
        images (Tensor): RGB in [0, 1], shape (N, C, H, W).
        labels (Tensor): int64, shape (N, ).
        threat_model (ThreatModel): Norm and radius.
        points (int): Number of points on each axis, odd so that the image
            itself is one of them. Defaults to 21.

    Returns:
        list[LossSurface]: One per image.
    """
    with attack_mode(model):
        leaf = images.clone().requires_grad_(True)
        total = cross_entropy(model(leaf).float(), labels).sum()
        (gradient,) = torch.autograd.grad(total, leaf)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator).to(images)
    ball, eps = threat_model.ball(images), threat_model.eps
    along = ball.step(images, gradient, eps) - images
    across = ball.step(images, noise, eps) - images
    steps = torch.linspace(-1, 1, points).to(images)
    surfaces = []
    for image, label, x, y in zip(images, labels, along, across):
        truth = label.expand(points)
        grids: tuple[list[Tensor], list[Tensor]] = [], []
        for step in steps:
            row = image + step * y + steps.view(-1, 1, 1, 1) * x
            with torch.no_grad():
                logits = model(row.clamp(0, 1)).float()
            grids[0].append(cross_entropy(logits, truth))
            grids[1].append(margin(logits, truth))
        loss, wrong = (torch.stack(grid).cpu().numpy() for grid in grids)
        surfaces.append(LossSurface(steps.cpu().numpy(), loss, wrong))
    return surfaces
