"""Runs attacks on every image, resumably and on several processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine import dist
from torch import nn

from m2at_mm.attacks import Attack, ThreatModel
from m2at_mm.checks import check_count
from m2at_mm.evaluation import named_attacks as named
from m2at_mm.evaluation.attacked_model import (
    Attackable,
    attack_batch,
    log,
    with_progress,
)
from m2at_mm.evaluation.outcomes import Outcomes, percent
from m2at_mm.evaluation.probes import NUM_PROBED, probe, unused_copy
from m2at_mm.evaluation.samples import Samples, spread_order
from m2at_mm.evaluation.store import Arrays, ResultStore, digest, digest_module
from m2at_mm.registry import TASK_UTILS

_RANDOM_NOTE = (
    'the test pipeline has random transforms: each image is read with the '
    'same draws every time, and with others the figures would differ'
)
_UNFOLDED = (
    'with batch norms folded into convolutions the model is another function: '
    '{} attacks it as it is, which takes longer'
)
_OTHER_DATASET = 'give the config whose dataset belongs to the checkpoint'


@dataclass
class RobustnessEvaluation:
    """Attacks a classifier's correctly classified images.

    A batch has random draws of its own, made from ``seed`` and its number, so
    neither the number of processes nor an interruption changes a result. What
    is finished is in the store and is not done again, as long as the images
    and their labels, which are read first, are what they were.

    Args:
        model (nn.Module): Maps images in [0, 1] to logits of shape (N, K).
            It is set to eval mode.
        samples (Samples): The images.
        store (ResultStore): Where finished batches are kept. Its settings are
            to hold what a result depends on besides the images.
        batch_size (int): Images per batch. AutoAttack's outcome depends on
            it, in the hundredth image or so; its own default is 250. A batch
            that does not fit into a GPU's memory is halved.
        seed (int): Seed of all random draws.
        transfer (dict, optional): Config of the ``'transfer'`` attack.
    """

    model: nn.Module
    samples: Samples
    store: ResultStore
    batch_size: int = 250
    seed: int = 0
    transfer: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_count('batch_size', self.batch_size)
        self._attacked = Attackable(self.model.eval())
        # Of the stages, how many there are in all, and how many have begun.
        self._total = self._begun = 0

    def run(
        self, attacks: Sequence[str], threat_models: Sequence[ThreatModel]
    ) -> tuple[list[Outcomes], dict[str, Any]]:
        """Evaluate clean, and under every attack at every radius.

        Returned are an outcome per threat model and the figures of
        :func:`m2at_mm.evaluation.probes.probe`.

        Raises:
            ValueError: An attack can't be built for this model, an image has
                no label, or one that is not of the model's classes.
            RuntimeError: An image changes while it is evaluated.
        """
        plans = self._plan(attacks, threat_models[0].norm)
        num_attacks = 1 + sum(len(plan.attacks) for plan in plans)
        self._total = 1 + len(threat_models) * num_attacks
        fresh = unused_copy(self.model)
        clean = self._read_all(threat_models[0])
        labels, predicted = clean['label'], clean['predicted']
        notes = [_RANDOM_NOTE] if self.samples.draws() else []
        outcomes = [
            Outcomes(
                threat,
                labels,
                dict(clean=predicted),
                seconds=dict(clean=float(clean['seconds'].sum())),
                notes=[*notes],
                num_classes=self._num_classes,
                positions=self.samples.positions,
            )
            for threat in threat_models
        ]
        for outcome in outcomes:
            for plan in plans:
                self._attack(plan, outcome, clean)
            self._ask_again(outcome)
        return outcomes, self._probe(clean, threat_models[0], fresh)

    def _plan(self, names: Sequence[str], norm: str) -> list[named.AttackPlan]:
        """Plan and build all attacks now, not after hours of the first."""
        first, _ = next(iter(self.samples.batches([[0]])))
        num_classes = named.count_classes(self.model, first)
        self._num_classes = num_classes
        known = len(self.samples.classes or ()) or num_classes
        if known != num_classes:
            raise ValueError(
                f'the dataset has {known} classes, but the model has '
                f'{num_classes}: {_OTHER_DATASET}'
            )
        given = num_classes, self.seed, self.transfer
        plans = [named.plan_attack(n, *given) for n in names if n != 'clean']
        return [
            named.build_attacks(plan, first, num_classes, norm)
            for plan in plans
        ]

    def _read_all(self, threat: ThreatModel) -> Arrays:
        """Read and classify all images, and open the store that is theirs."""
        clean = self._stage('clean', threat, np.arange(len(self.samples)))
        labels = clean['label']
        if labels.max() >= self._num_classes or labels.min() < 0:
            raise ValueError(
                f'the test images have labels {labels.min()} to '
                f'{labels.max()}, but the model has classes 0 to '
                f'{self._num_classes - 1}: {_OTHER_DATASET}'
            )
        self._content = clean['content']
        self.store = self.store.for_images(digest(self._content, labels))
        right = percent(labels == clean['predicted'])
        log(f'clean accuracy: {right:.2f} % of {len(labels)} images')
        return clean

    def _attack(
        self, plan: named.AttackPlan, outcome: Outcomes, clean: Arrays
    ) -> None:
        """Run an attack's parts, each on what the last one left over."""
        predictions = outcome.predictions['clean'].copy()
        threat, name = outcome.threat_model, plan.name
        outcome.seconds[name] = outcome.outside[name] = 0
        after_part = {}
        for (part, cfg), attack in zip(plan.parts, plan.attacks):
            left = np.flatnonzero(predictions == outcome.labels)
            found = self._stage(part, threat, left, attack, cfg)
            if found:
                predictions[left] = found['predicted']
                outcome.seconds[name] += float(found['seconds'].sum())
                outcome.outside[name] += int(found['outside'].sum())
                if found['unfolded'].any():
                    outcome.notes.append(_UNFOLDED.format(name))
                about = named.find_attack(name)
                if about is not None and about.climbs and about.loss:
                    stuck = found[about.loss] <= clean[about.loss][left]
                    stuck &= found['predicted'] == found['label']
                    outcome.stuck[name] = int(stuck.sum())
            after_part[part] = predictions.copy()
        outcome.predictions[name] = predictions
        if len(after_part) > 1:
            outcome.parts[name] = after_part
        if plan.note is not None:
            outcome.notes.append(plan.note)
        right = percent(predictions == outcome.labels)
        log(f'accuracy under {name} at {threat}: {right:.2f} %')

    def _ask_again(self, outcome: Outcomes) -> None:
        """Ask for a second opinion about the images that withstand all."""
        left = np.flatnonzero(outcome.withstanding())
        cfg, threat = named.SECOND_OPINION.config, outcome.threat_model
        attack = TASK_UTILS.build(cfg)
        found = self._stage('second opinion', threat, left, attack, cfg)
        outcome.second_opinion = outcome.predictions['clean'].copy()
        if found:
            outcome.second_opinion[left] = found['predicted']
            outcome.outside['second opinion'] = int(found['outside'].sum())
        right = percent(outcome.worst())
        log(f'worst case with the second opinion at {threat}: {right:.2f} %')

    def _stage(
        self,
        name: str,
        threat: ThreatModel,
        pool: np.ndarray,
        attack: Attack | None = None,
        cfg: dict[str, Any] | None = None,
    ) -> Arrays:
        """What ``attack_batch`` finds, the same on every process."""
        scope, key = 'clean', None
        if attack is not None:
            scope = f'{threat.norm}_{threat.eps * 255:.6g}-255'
            key = f'{scope}/{_folder(name, threat, pool, attack, cfg)}'
        splits = range(self.batch_size, len(pool), self.batch_size)
        batches = np.split(pool, splits) if len(pool) else []
        mine = range(dist.get_rank(), len(batches), dist.get_world_size())
        files = {n: f'{key}/batch_{n:05d}' for n in mine}
        done = {n: key and self.store.load_batch(files[n]) for n in mine}
        todo = [n for n in mine if not done[n]]
        indices = [batches[n].tolist() for n in todo]
        self._begun += 1
        title = f'[{self._begun}/{self._total}] {name} ({scope})'
        if todo:
            log(f'{title}: {sum(map(len, indices))} images')
        loaded = zip(todo, self.samples.batches(indices))
        about = named.find_attack(name) or named.SECOND_OPINION
        how_long = title, about.passes if key else 1, len(todo)
        for n, batch in with_progress(loaded, self._attacked, *how_long):
            given = attack, threat, *batch, self.seed + n
            arrays, adversarial = attack_batch(self._attacked, *given)
            arrays['index'] = self.samples.positions[batches[n]]
            if key:
                self._check_content(arrays, batches[n])
                self.store.save_batch(files[n], arrays, adversarial)
            done[n] = arrays
        return _gather(done)

    def _check_content(self, arrays: Arrays, batch: np.ndarray) -> None:
        """Refuse other images than those of the clean accuracy."""
        changed = arrays['content'] != self._content[batch]
        if changed.any():
            raise RuntimeError(
                f'image {arrays["index"][changed][0]} of the dataset is not '
                'the one that the clean accuracy was measured on: its file '
                'has changed meanwhile, or its pipeline draws from a random '
                'stream of its own. Remove random transforms from the test '
                'pipeline'
            )

    def _probe(
        self, clean: Arrays, threat: ThreatModel, fresh: nn.Module
    ) -> dict[str, Any]:
        """Probe images that are right, on one process for all."""
        labels = clean['label']
        right = np.flatnonzero(labels == clean['predicted'])
        pool = right[spread_order(labels[right])[:NUM_PROBED]]
        key = f'probes-{digest(threat.to_dict(), pool)}'
        figures = self.store.load_dict(key)
        if figures is None and dist.is_main_process() and len(pool):
            log('looking for masked gradients')
            (batch,) = self.samples.batches([pool.tolist()])
            figures = probe(
                self.model,
                *batch,
                threat,
                self.seed,
                self.batch_size,
                fresh,
                torch.from_numpy(clean['margin'][pool]),
            )
            self.store.save_dict(key, figures)
        shared = [figures]
        dist.broadcast_object_list(shared)
        return shared[0] or {}


def _folder(
    name: str, threat: ThreatModel, pool: np.ndarray, attack: Attack, cfg: Any
) -> str:
    """Names all that an attack's batches depend on."""
    surrogate = getattr(attack, 'surrogate', None)
    weights = digest_module(surrogate) if surrogate else None
    key = digest(cfg, weights, threat.to_dict(), pool)
    return f'{name.replace(" ", "-")}-{key}'


def _gather(done: dict[int, Any]) -> Arrays:
    """The arrays of all ranks, joined in the order of the batches."""
    joined: dict[int, Arrays] = {}
    for part in dist.all_gather_object(done):
        joined |= part
    every = [joined[n] for n in sorted(joined)]
    names = every[0] if every else ()
    return {name: np.concatenate([e[name] for e in every]) for name in names}
