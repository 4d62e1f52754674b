"""The robustness evaluation as a test loop of MMEngine's Runner."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from m2at_mm.attacks import ThreatModel
from m2at_mm.attacks.threat_model import Pixels
from m2at_mm.evaluation import named_attacks, results
from m2at_mm.evaluation.robustness import RobustnessEvaluation
from m2at_mm.evaluation.samples import Samples
from m2at_mm.evaluation.store import ResultStore, digest_module
from m2at_mm.files import only_run_in
from m2at_mm.model_wrappers import AdversarialClassifier, bare_model
from m2at_mm.registry import LOOPS
from m2at_mm.version import __version__


@LOOPS.register_module()
class RobustnessTestLoop(BaseLoop):
    """Tests an adversarial classifier under many attacks, resumably.

    The model must be a :class:`m2at_mm.AdversarialClassifier`. What is
    finished is kept in ``WORK_DIR/evaluation/DIGEST``, with one folder per set
    of weights, images, labels and settings.

    Args:
        runner (Runner): The runner.
        dataloader (dict | DataLoader): Of the test images; its batch size is
            not used.
        evaluator: Not used; for the Runner's interface.
        attacks (Sequence[str]): Of
            :data:`m2at_mm.evaluation.named_attacks.ATTACK_NAMES`. Defaults to
            clean, fgsm, pgd20 and cw20.
        eps (Sequence[str | float], optional): Radii to evaluate at, like
            ``['4/255', '8/255']``. Defaults to None, that of the model.
        norm (str, optional): ``'linf'`` or ``'l2'``. Defaults to None, that
            of the model.
        num_samples (int, optional): How many images to use, None for all.
        subset (str): Which images are used, if not all: ``'spread'`` over
            the classes, the same for every network, or ``'first'``.
        batch_size (int): Images per batch, by default as in AutoAttack.
        seed (int): Of all random draws.
        transfer (dict, optional): Arguments of :class:`m2at_mm.Transfer`.
        out (str, optional): JSON file for the results. Defaults to None,
            ``WORK_DIR/results.json``.
        adversarial_dir (str, optional): Folder for the adversarial images.
            Defaults to None: they are not kept.

    Raises:
        ValueError: A setting does not fit the model or the others.

    Example:
        >>> test_cfg = dict(
        ...     type='m2at_mm.RobustnessTestLoop',
        ...     attacks=['pgd20', 'autoattack'], num_samples=1000)
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader[Any] | dict[str, Any],
        evaluator: Any = None,
        attacks: Sequence[str] = named_attacks.DEFAULT_ATTACKS,
        eps: Sequence[Pixels] | None = None,
        norm: str | None = None,
        num_samples: int | None = None,
        subset: str = 'spread',
        batch_size: int = 250,
        seed: int = 0,
        transfer: dict[str, Any] | None = None,
        out: str | None = None,
        adversarial_dir: str | None = None,
    ) -> None:
        named_attacks.check_attack_names(attacks, transfer is not None)
        super().__init__(runner, dataloader)
        self.model = _adversarial(runner.model)
        self.attacks = list(dict.fromkeys(attacks))
        self.threat_models = _threat_models(self.model.threat_model, norm, eps)
        self.transfer = transfer and dict(transfer, type='m2at_mm.Transfer')
        self.samples = Samples(
            self.dataloader.dataset,
            self.model.data_preprocessor,
            self.dataloader.collate_fn,
            num_samples,
            self.dataloader.num_workers,
            subset,
        )
        self.batch_size, self.seed = batch_size, seed
        self.out = Path(out or Path(runner.work_dir, 'results.json'))
        if self.out.is_dir():
            raise ValueError(
                f'out={str(self.out)!r} is a folder: give the name of a file '
                'in it, like results.json'
            )
        kept = Path(adversarial_dir) if adversarial_dir else None
        self.adversarial_dir = kept

    def run(self) -> dict[str, float]:
        """Evaluate; print and write the results.

        Only one evaluation at a time runs in a work dir. The metrics are
        ``robust/clean``, ``robust/NAME`` and ``robust/worst`` at the main
        radius, in per cent.
        """
        self.runner.call_hook('before_test')
        self.runner.call_hook('before_test_epoch')
        folder = Path(self.runner.work_dir, 'evaluation')
        with only_run_in(str(folder)):
            found = self._evaluate(folder)
        figures = dict(clean=found['clean'], **found['attacks'])
        figures['worst'] = found['worst_case']
        metrics = {f'robust/{name}': figures[name] for name in figures}
        self.runner.call_hook('after_test_epoch', metrics=metrics)
        self.runner.call_hook('after_test')
        return metrics

    def _evaluate(self, folder: Path) -> dict[str, Any]:
        evaluation = RobustnessEvaluation(
            self.model,
            self.samples,
            ResultStore(folder, self._settings(), self.adversarial_dir),
            self.batch_size,
            self.seed,
            self.transfer,
        )
        outcomes, probes = evaluation.run(self.attacks, self.threat_models)
        about = dict(subset=self.samples.subset, classes=self.samples.classes)
        settings = dict(evaluation.store.settings, **about)
        found = results.make_results(outcomes, probes, settings)
        if is_main_process():
            results.print_results(found, outcomes)
            samples = results.per_sample(outcomes)
            results.write_results(found, samples, self.out)
        return found

    def _settings(self) -> dict[str, Any]:
        """What every result depends on."""
        cfg = self.runner.cfg  # empty where the runner was given objects
        model = cfg.get('model') or {}
        checkpoint = self.runner._load_from
        own, names = self.model.data_preprocessor, ('mean', 'std')
        statistics = [(n, getattr(own, n)) for n in names if hasattr(own, n)]
        return dict(
            config=cfg.filename and Path(cfg.filename).name,
            checkpoint=checkpoint and Path(checkpoint).name,
            weights=digest_module(self.model),
            model=model.get('classifier', model) or str(self.model.classifier),
            data_preprocessor=model.get('data_preprocessor')
            or cfg.get('data_preprocessor')
            or {n: v.flatten().tolist() for n, v in statistics},
            dataset=(cfg.get('test_dataloader') or {}).get('dataset')
            or repr(self.dataloader.dataset),
            batch_size=self.batch_size,
            seed=self.seed,
            versions=dict(m2at_mm=__version__, torch=torch.__version__),
        )


def _adversarial(model: nn.Module) -> AdversarialClassifier:
    bare = bare_model(model)
    if not isinstance(bare, AdversarialClassifier):
        raise TypeError(
            'RobustnessTestLoop needs an m2at_mm.AdversarialClassifier, but '
            f'the model is a {type(bare).__name__}: wrap it, for example by '
            "m2at_mm.recipes.apply_recipe(cfg, 'standard')"
        )
    return bare


def _threat_models(
    own: ThreatModel, norm: str | None, eps: Sequence[Pixels] | None
) -> list[ThreatModel]:
    """One per radius, the model's own first if it is among them."""
    if eps is None:
        if norm is not None and norm != own.norm:
            raise ValueError(
                f'norm={norm!r} is not that of the model, {own.norm!r}, so '
                "its radius means nothing here: give eps, too, like '128/255'"
            )
        return [own]
    wanted = [ThreatModel(norm or own.norm, one) for one in eps]
    for one in eps:
        if isinstance(one, str) and '/' not in one and float(one) == 1:
            raise ValueError(
                f'eps={one!r} is the whole range of a pixel: write '
                "'1/255' or '255/255'"
            )
    unique = {threat.eps: threat for threat in wanted}
    if own.eps in unique and norm in (None, own.norm):
        return [unique.pop(own.eps), *unique.values()]
    return [*unique.values()]
