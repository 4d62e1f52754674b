"""Runs attacks on every image, resumably and on several processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.logging import print_log
from torch import Tensor, nn

from m2at_mm.attacks import AutoAttack, ThreatModel, own_random_stream
from m2at_mm.attacks.logits import logits_of, predicted_labels
from m2at_mm.checks import check_count
from m2at_mm.evaluation.attackable import Attackable
from m2at_mm.evaluation.batches import Progress, run_in_memory
from m2at_mm.evaluation.named_attacks import AttackPlan, plan_attack
from m2at_mm.evaluation.outcomes import Outcomes, percent
from m2at_mm.evaluation.probes import NUM_PROBED, probe
from m2at_mm.evaluation.samples import (
    Samples,
    fingerprints,
    spread_order,
)
from m2at_mm.evaluation.store import (
    Arrays,
    ResultStore,
    digest,
    digest_module,
    save_npz,
)
from m2at_mm.registry import TASK_UTILS

_RANDOM_NOTE = (
    'the test pipeline has random transforms: each image is read with the '
    'same draws every time, and with others the figures would differ'
)


class RobustnessEvaluation:
    """Attacks a classifier's correctly classified images.

    The work is cut into batches of a fixed order and size. A batch has random
    draws of its own, made from ``seed`` and its number, so neither the number
    of processes nor an interruption changes a result. What is finished is in
    the store and is not done again, as long as the images and their labels
    are what they were: they are read first, without attack.

    Args:
        model (nn.Module): Maps images in [0, 1], shape (N, C, H, W), to
            logits of shape (N, K). It is set to eval mode.
        samples (Samples): The images.
        store (ResultStore): Where finished batches are kept, in a folder of
            these images. Its settings are to hold what else a result depends
            on.
        batch_size (int): Images per batch. AutoAttack's outcome depends on
            it, in the hundredth image or so; its own default is 250. A batch
            that does not fit into a GPU's memory is halved. Defaults to 250.
        seed (int): Of all random draws. Defaults to 0.
        transfer (dict, optional): Config of the ``'transfer'`` attack.
            Defaults to None.
        adversarial_dir (Path, optional): Folder for the adversarial images.
            Defaults to None: they are not kept.

    Raises:
        ValueError: ``batch_size`` is below 1.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        store: ResultStore,
        *,
        batch_size: int = 250,
        seed: int = 0,
        transfer: dict[str, Any] | None = None,
        adversarial_dir: Path | None = None,
    ) -> None:
        check_count('batch_size', batch_size)
        self._bare = model.eval()
        self.model = Attackable(model)
        self.samples = samples
        self.store = store
        self.batch_size = batch_size
        self.seed = seed
        self.transfer = transfer
        self.adversarial_dir = adversarial_dir
        self._stage_number = self._stages = 0

    def run(
        self, attacks: Sequence[str], threat_models: Sequence[ThreatModel]
    ) -> tuple[list[Outcomes], dict[str, Any]]:
        """Evaluate clean, and under every attack at every radius.

        Args:
            attacks (Sequence[str]): Of
                :data:`m2at_mm.evaluation.named_attacks.ATTACK_NAMES`.
            threat_models (Sequence[ThreatModel]): At least one.

        Returns:
            tuple: The outcomes per threat model, and the figures of
            :func:`m2at_mm.evaluation.probes.probe`.

        Raises:
            ValueError: An attack can't be built for this model, an image has
                no label, or one that is not of the model's classes.
            RuntimeError: An image changes while it is evaluated.
        """
        first, _ = next(iter(self.samples.batches([[0]])))
        num_classes = self._num_classes(first)
        plans = [
            plan_attack(name, num_classes, self.seed, self.transfer)
            for name in attacks
            if name != 'clean'
        ]
        # What can't be built is found out now, not after hours of attacks.
        built = [
            [TASK_UTILS.build(cfg) for _, cfg in plan.parts] for plan in plans
        ]
        for attack in chain.from_iterable(built):
            _check_attack(attack, first, num_classes)
        self._stages = 1 + len(threat_models) * sum(
            len(plan.parts) for plan in plans
        )
        everything = np.arange(len(self.samples))
        clean = self._stage('clean', None, None, threat_models[0], everything)
        labels, predicted = clean['label'], clean['predicted']
        _check_labels(labels, num_classes)
        self._content = clean['content']
        self.store = self.store.for_images(digest(self._content, labels))
        right = everything[labels == predicted]
        print_log(
            f'clean accuracy: {percent(labels == predicted):.2f} % of '
            f'{len(labels)} images',
            logger='current',
        )
        probes = self._probe(right, labels, threat_models[0])
        notes = [_RANDOM_NOTE] if self.samples.draws() else []
        outcomes = []
        for threat in threat_models:
            outcome = Outcomes(
                threat,
                labels,
                dict(clean=predicted),
                notes=[*notes],
                num_classes=num_classes,
                positions=self.samples.positions,
            )
            outcome.seconds['clean'] = float(clean['seconds'].sum())
            for plan, parts in zip(plans, built):
                self._attack(plan, parts, outcome)
            outcomes.append(outcome)
        return outcomes, probes

    def _attack(
        self, plan: AttackPlan, attacks: Sequence[Any], outcome: Outcomes
    ) -> None:
        """Run an attack's parts, each on what the last one left over."""
        predictions = outcome.predictions['clean'].copy()
        outcome.seconds[plan.name] = 0.0
        outcome.outside[plan.name] = 0
        after_part = {}
        for (part, cfg), attack in zip(plan.parts, attacks):
            left = np.flatnonzero(predictions == outcome.labels)
            found = self._stage(part, cfg, attack, outcome.threat_model, left)
            predictions[left] = found['predicted']
            outcome.seconds[plan.name] += float(found['seconds'].sum())
            outcome.outside[plan.name] += int(found['outside'].sum())
            after_part[part] = predictions.copy()
        outcome.predictions[plan.name] = predictions
        if len(plan.parts) > 1:
            outcome.parts[plan.name] = after_part
        if plan.note is not None:
            outcome.notes.append(plan.note)
        print_log(
            f'accuracy under {plan.name} at {outcome.threat_model}: '
            f'{percent(predictions == outcome.labels):.2f} %',
            logger='current',
        )

    def _stage(
        self,
        name: str,
        cfg: dict[str, Any] | None,
        attack: Callable[..., Any] | None,
        threat: ThreatModel,
        pool: np.ndarray,
    ) -> Arrays:
        """Attack the images of a pool; on all ranks, what all found.

        Args:
            name (str): Of the attack, for messages and files.
            cfg (dict, optional): Of the attack; None for the clean images.
            attack (Callable, optional): What was built from it.
            threat (ThreatModel): Norm and radius.
            pool (np.ndarray): Positions of the images, ascending.

        Returns:
            dict: ``label``, ``predicted``, ``outside`` and ``content`` of
            shape (len(pool), ), ``seconds`` per batch.
        """
        scope = 'clean' if cfg is None else _folder_name(threat)
        surrogate = getattr(attack, 'surrogate', None)
        weights = digest_module(surrogate) if surrogate else None
        identity = (cfg, weights, cfg and threat.to_dict(), pool)
        key = f'{scope}/{name}-{digest(*identity)}'
        splits = range(self.batch_size, len(pool), self.batch_size)
        batches = np.split(pool, splits) if len(pool) else []
        rank, ranks = dist.get_rank(), dist.get_world_size()
        mine = range(rank, len(batches), ranks)
        done = {
            n: None if attack is None else self._finished(key, n) for n in mine
        }
        todo = [n for n in mine if done[n] is None]
        self._stage_number += 1
        title = f'[{self._stage_number}/{self._stages}] {name} ({scope})'
        if todo:
            images_left = sum(len(batches[n]) for n in todo)
            print_log(f'{title}: {images_left} images', logger='current')
        loaded = self.samples.batches([batches[n].tolist() for n in todo])
        sizes = [len(batches[n]) for n in todo]
        with Progress(self.model, title, name, sizes) as progress:
            for number, (images, labels) in zip(todo, loaded):
                if attack is not None:
                    self._check_content(images, batches[number])
                arrays, adversarial = self._batch(
                    attack, threat, images, labels, number
                )
                arrays['index'] = self.samples.positions[batches[number]]
                if attack is not None:
                    self._keep(key, number, arrays, adversarial)
                done[number] = arrays
                progress.finish_batch()
        joined: dict[int, Arrays] = {}
        for part in dist.all_gather_object(done):
            joined.update(part)
        return _concatenate([joined[n] for n in range(len(batches))])

    def _finished(self, key: str, number: int) -> Any:
        """A batch's arrays if it is done with all its files, else None."""
        if self.adversarial_dir is not None:
            if not self._images_file(key, number).is_file():
                return None
        return self.store.load_arrays(f'{key}/batch_{number:05d}')

    def _keep(
        self, key: str, number: int, arrays: Arrays, adversarial: Tensor
    ) -> None:
        if self.adversarial_dir is not None:
            kept = dict(arrays, adversarial=adversarial.cpu().numpy())
            save_npz(self._images_file(key, number), kept)
        self.store.save_arrays(f'{key}/batch_{number:05d}', arrays)

    def _check_content(self, images: Tensor, batch: np.ndarray) -> None:
        """Refuse other images than those of the clean accuracy."""
        changed = fingerprints(images) != self._content[batch]
        if changed.any():
            position = self.samples.positions[batch[changed][0]]
            raise RuntimeError(
                f'image {position} of the dataset is not the one that the '
                'clean accuracy was measured on: its file has changed '
                'meanwhile, or its pipeline draws from a random stream of its '
                'own. Remove random transforms from the test pipeline'
            )

    def _images_file(self, key: str, number: int) -> Path:
        assert self.adversarial_dir is not None
        name = f'batch_{number:05d}.npz'
        # The store's folder stands for weights, data, seed and batch size.
        return self.adversarial_dir / self.store.folder.name / key / name

    def _batch(
        self,
        attack: Callable[..., Any] | None,
        threat: ThreatModel,
        images: Tensor,
        labels: Tensor,
        number: int,
    ) -> tuple[Arrays, Tensor]:
        start = time.perf_counter()
        with own_random_stream(images.device, self.seed + number):
            adversarial, predicted = run_in_memory(
                lambda part, truth: self._attack_and_predict(
                    attack, threat, part, truth
                ),
                images,
                labels,
            )
        inside = threat.ball(images).contains(adversarial)
        arrays = dict(
            label=labels.cpu().numpy(),
            predicted=predicted.cpu().numpy(),
            outside=(~inside).cpu().numpy(),
            content=fingerprints(images),
            seconds=np.array([time.perf_counter() - start]),
        )
        return arrays, adversarial

    def _attack_and_predict(
        self,
        attack: Callable[..., Any] | None,
        threat: ThreatModel,
        images: Tensor,
        labels: Tensor,
    ) -> tuple[Tensor, Tensor]:
        adversarial = images
        if attack is not None:
            adversarial = attack(
                self.model, images, labels, threat, stop_when_fooled=True
            )
        with torch.no_grad():
            logits = logits_of(self._bare, adversarial)
            return adversarial, predicted_labels(logits)

    def _num_classes(self, images: Tensor) -> int:
        with torch.no_grad():
            num_classes: int = self.model(images).shape[1]
        known = self.samples.num_classes
        if known is not None and known != num_classes:
            raise ValueError(
                f'the dataset has {known} classes, but the model has '
                f'{num_classes}: give the config whose dataset belongs to the '
                'checkpoint'
            )
        return num_classes

    def _probe(
        self, right: np.ndarray, labels: np.ndarray, threat: ThreatModel
    ) -> dict[str, Any]:
        """Probe on one process, for the same figures on all."""
        pool = right[spread_order(labels[right])[:NUM_PROBED]]
        key = f'probes-{digest(threat.to_dict(), pool)}'
        figures = self.store.load_dict(key)
        if figures is None and dist.is_main_process() and len(pool):
            print_log('looking for masked gradients', logger='current')
            (images, truth) = next(iter(self.samples.batches([pool.tolist()])))
            figures = probe(
                self._bare,
                images,
                truth,
                threat,
                self.seed,
                self.batch_size,
            )
            self.store.save_dict(key, figures)
        shared = [figures]
        dist.broadcast_object_list(shared)
        return shared[0] or {}


def _check_attack(attack: Any, images: Tensor, num_classes: int) -> None:
    """Refuse an attack that the number of classes does not allow.

    Raises:
        ValueError: It compares more logits, or its surrogate has other
            classes.
    """
    if isinstance(attack, AutoAttack):
        attack.components(num_classes)
    surrogate = getattr(attack, 'surrogate', None)
    if surrogate is not None:
        with torch.no_grad():
            others = surrogate.to(images.device)(images).shape[1]
        if others != num_classes:
            raise ValueError(
                f'the surrogate of --transfer has {others} classes, but the '
                f'model has {num_classes}: give a network for the same dataset'
            )


def _check_labels(labels: np.ndarray, num_classes: int) -> None:
    if labels.max() >= num_classes or labels.min() < 0:
        raise ValueError(
            f'the test images have labels {labels.min()} to {labels.max()}, '
            f'but the model has classes 0 to {num_classes - 1}: give the '
            'config whose dataset belongs to the checkpoint'
        )


def _folder_name(threat: ThreatModel) -> str:
    return f'{threat.norm}_{threat.eps * 255:.6g}-255'


def _concatenate(batches: list[Arrays]) -> Arrays:
    names = ('label', 'predicted', 'outside', 'content', 'seconds')
    if not batches:
        return {name: np.zeros(0, dtype=np.int64) for name in names}
    return {
        name: np.concatenate([batch[name] for batch in batches])
        for name in names
    }
