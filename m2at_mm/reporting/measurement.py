"""What a report measures with a run's own network and test images."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

from m2at_mm import attacks, cli, evaluation
from m2at_mm.attacks.logits import predicted_labels
from m2at_mm.evaluation.attacked_model import Attackable
from m2at_mm.evaluation.named_attacks import plan_attack
from m2at_mm.evaluation.results import make_results, settings_of
from m2at_mm.model_wrappers import AdversarialClassifier, bare_model
from m2at_mm.registry import TASK_UTILS
from m2at_mm.reporting.run_log import RunLog, class_names

#: The attack of everything that is measured here.
ATTACK = 'pgd20'
# Radii of the sweep besides the run's own, as multiples of it.
_RADII = (0.25, 0.5, 1.5, 2.0)
_NUM_EXAMPLES = 6
# What the command line of a tool would say.
_OPTIONS = argparse.Namespace(launcher='none', local_rank=0, cfg_options=None)
_OPTIONS.no_pin_memory = True
_NUM_SURFACES = 3


@dataclass(frozen=True)
class Example:
    """An image before and after the attack: RGB in [0, 1], shape (H, W, 3).

    ``predicted`` and ``attacked`` are class and probability without and under
    attack, the class -1 where the logits are not finite.
    """

    clean: np.ndarray
    adversarial: np.ndarray
    label: int
    predicted: tuple[int, float]
    attacked: tuple[int, float]


@dataclass(frozen=True)
class LossSurface:
    """The loss on a grid of P x P points around an image.

    Positions on both axes are in units of the radius. ``loss`` (cross-entropy)
    and ``margin`` (best wrong logit minus the right one) have a row per step
    in the random direction and a column per step along the gradient.
    """

    steps: np.ndarray
    loss: np.ndarray
    margin: np.ndarray


@dataclass(frozen=True)
class Measurement:
    """Measurements of a run.

    ``outcome`` is at its own radius, ``results`` are as in ``results.json``,
    with ``sweep``, ``examples`` are images of several classes, and
    ``surfaces`` are around the first of them.
    """

    outcome: evaluation.Outcomes
    results: dict[str, Any]
    examples: list[Example]
    surfaces: list[LossSurface]


@dataclass(frozen=True)
class Report:
    """All data that a page shows.

    By the name of a run, ``measured`` has its measurement, and ``missing``
    why it has none.
    """

    runs: Sequence[RunLog]
    measured: Mapping[str, Measurement] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    def class_names(self, run: RunLog) -> Sequence[str] | None:
        """As the evaluation or the measurement found them, else the config."""
        measured = self.measured.get(run.name)
        for results in (run.results, measured and measured.results):
            names: Sequence[str] | None = settings_of(results or {}).get(
                'classes'
            )
            if names:
                return names
        return class_names(run.config)


def measure(run: RunLog, num_images: int) -> Measurement:
    """Attack some test images with the run's checkpoint.

    They are at most ``num_images``, spread over the classes. Nothing is
    written into the work dir.

    Raises:
        OSError: The data are missing.
        ValueError: Data, checkpoint and config do not fit each other.
        TypeError: The model is not adversarial.
    """
    with TemporaryDirectory() as folder:
        runner = cli.build_trained_runner(_config(run, Path(folder)), _OPTIONS)
        model = bare_model(runner.model).eval()
        loader, own = runner.test_dataloader, model.threat_model
        how = model.data_preprocessor, loader.collate_fn
        count = min(num_images, len(loader.dataset))
        samples = evaluation.Samples(loader.dataset, *how, count)
        store = evaluation.ResultStore(Path(folder, 'evaluation'), {})
        # The run's own radius first, then smaller and larger ones.
        largest = 1.0 if own.norm == 'linf' else float('inf')
        others = [own.eps * factor for factor in _RADII]
        others = [eps for eps in others if 0 < eps <= largest]
        run_all = evaluation.RobustnessEvaluation(model, samples, store).run
        radii = [own, *map(own.with_eps, others)]
        outcomes, probes = run_all([ATTACK], radii)
    few = samples.spread(_NUM_EXAMPLES)
    images, labels = next(iter(samples.batches([few])))
    first = (images[:_NUM_SURFACES], labels[:_NUM_SURFACES])
    surfaces = loss_surfaces(Attackable(model), *first, own)
    checkpoint = run.checkpoint and run.checkpoint.name
    about = dict(classes=samples.classes, checkpoint=checkpoint)
    results = make_results(outcomes, probes, about)
    shown = _examples(model, images, labels)
    return Measurement(outcomes[0], results, shown, surfaces)


def _config(run: RunLog, folder: Path) -> Config:
    """The run's config, set up for its test images alone."""
    cfg = cli.load_adversarial_config(str(run.config_file))
    if cfg.get('test_dataloader') is None:
        told = 'the config has no test_dataloader, so there are no test images'
        raise ValueError(told)
    cfg.work_dir = str(folder)
    cfg.experiment_name = folder.name  # MMEngine keeps one log per name
    cfg.log_level = 'WARNING'
    cfg.visualizer = None  # nothing is sent to where the run was logged
    cfg.load_from, cfg.resume = str(run.checkpoint), False
    cfg.test_cfg = dict()
    cli.merge_common_options(cfg, _OPTIONS)
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    return cfg


def _examples(
    model: AdversarialClassifier, images: Tensor, labels: Tensor
) -> list[Example]:
    (_, settings), *_ = plan_attack(ATTACK, 2).parts
    attack = TASK_UTILS.build(settings)
    given = Attackable(model), images, labels, model.threat_model
    with attacks.own_random_stream(images.device, 0):
        adversarial = attack(*given)
    shown, predicted = [], []
    for one in (images, adversarial):
        coloured = one.cpu().expand(-1, 3, -1, -1)
        shown.append(coloured.permute(0, 2, 3, 1).numpy())
        with torch.no_grad():
            logits = model(one)
        shares = logits.float().softmax(1).amax(1).tolist()
        predicted.append(zip(predicted_labels(logits).tolist(), shares))
    return [*map(Example, *shown, labels.tolist(), *predicted)]


def loss_surfaces(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat_model: attacks.ThreatModel,
    points: int = 21,
) -> list[LossSurface]:
    """Loss and margin along the gradient and a random direction.

    A jagged or flat slope along the gradient is a sign of masked gradients
    (arXiv 1902.06705, section 4). Both directions end where ball and box end.
    The number of points on each axis is odd, so that one is the image itself.

    Images are RGB in [0, 1], shape (N, C, H, W), labels int64, shape (N, ).
    """
    with attacks.attack_mode(model):
        leaf = images.clone().requires_grad_(True)
        total = attacks.cross_entropy(model(leaf).float(), labels).sum()
        (gradient,) = torch.autograd.grad(total, leaf)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator).to(images)
    ball, eps = threat_model.ball(images), threat_model.eps
    along = ball.step(images, gradient, eps) - images
    across = ball.step(images, noise, eps) - images
    steps = torch.linspace(-1, 1, points).to(images)
    surfaces = []
    for image, label, x, y in zip(images, labels, along, across):
        line = steps.view(-1, 1, 1, 1) * x
        rows = [image + step * y + line for step in steps]
        with torch.no_grad():
            logits = [model(row.clamp(0, 1)).float() for row in rows]
        arrays = [steps.cpu().numpy()]
        for score in (attacks.cross_entropy, attacks.margin):
            grid = [score(one, label.expand(points)) for one in logits]
            arrays.append(torch.stack(grid).cpu().numpy())
        surfaces.append(LossSurface(*arrays))
    return surfaces
