"""The stages of an evaluation: one attack on many images, resumably."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine import dist

from m2at_mm.attacks import ThreatModel
from m2at_mm.attacks.base import Attack
from m2at_mm.evaluation.attacked_model import (
    Attackable,
    attack_batch,
    log,
    with_progress,
)
from m2at_mm.evaluation.named_attacks import NAMED_ATTACKS, SECOND_OPINION
from m2at_mm.evaluation.samples import Samples
from m2at_mm.evaluation.store import Arrays, ResultStore, digest, digest_module


@dataclass
class Stages:
    """Runs attacks on pools of images, some batches on each process.

    A batch has random draws of its own, made from ``seed`` and its number.
    """

    model: Attackable
    samples: Samples
    store: ResultStore
    batch_size: int
    seed: int
    #: How many stages there are in all, and how many have begun.
    total: int = 0
    number: int = 0
    #: Fingerprints of all images, once they are known.
    content: np.ndarray | None = None

    def read_all(self, threat: ThreatModel) -> Arrays:
        """What :func:`attack_batch` finds of all images without attack."""
        everything = np.arange(len(self.samples))
        return self._stage('clean', 'clean', None, threat, everything)

    def attack(
        self,
        name: str,
        cfg: dict[str, Any],
        attack: Attack,
        threat: ThreatModel,
        left: np.ndarray,
    ) -> Arrays:
        """What :func:`attack_batch` finds of the images ``left``.

        They are given by position, int64 of shape (N, ). Finished batches are
        kept, and found again. Every process returns the same.

        Raises:
            RuntimeError: An image is not the one that was read first.
        """
        scope = f'{threat.norm}_{threat.eps * 255:.6g}-255'
        surrogate = getattr(attack, 'surrogate', None)
        weights = digest_module(surrogate) if surrogate else None
        key = digest(cfg, weights, threat.to_dict(), left)
        folder = f'{scope}/{name.replace(" ", "-")}-{key}'
        return self._stage(name, scope, attack, threat, left, folder)

    def _stage(
        self,
        name: str,
        scope: str,
        attack: Attack | None,
        threat: ThreatModel,
        pool: np.ndarray,
        key: str | None = None,
    ) -> Arrays:
        """Attack a pool of images, kept under the key, if there is one."""
        splits = range(self.batch_size, len(pool), self.batch_size)
        batches = np.split(pool, splits) if len(pool) else []
        mine = range(dist.get_rank(), len(batches), dist.get_world_size())
        files = {n: f'{key}/batch_{n:05d}' for n in mine}
        done = {n: key and self.store.load_batch(files[n]) for n in mine}
        todo = [n for n in mine if not done[n]]
        indices = [batches[n].tolist() for n in todo]
        self.number += 1
        title = f'[{self.number}/{self.total}] {name} ({scope})'
        if todo:
            log(f'{title}: {sum(map(len, indices))} images')
        loaded = self.samples.batches(indices)
        passes = NAMED_ATTACKS.get(name, SECOND_OPINION).passes if key else 1
        for n, (images, labels) in with_progress(
            zip(todo, loaded), self.model, title, passes, len(todo)
        ):
            arrays, adversarial = attack_batch(
                self.model, attack, threat, images, labels, self.seed + n
            )
            arrays['index'] = self.samples.positions[batches[n]]
            if key:
                self._check_content(arrays, batches[n])
                self.store.save_batch(files[n], arrays, adversarial)
            done[n] = arrays
        return _gather(done)

    def _check_content(self, arrays: Arrays, batch: np.ndarray) -> None:
        """Refuse other images than those of the clean accuracy."""
        assert self.content is not None
        changed = arrays['content'] != self.content[batch]
        if changed.any():
            raise RuntimeError(
                f'image {arrays["index"][changed][0]} of the dataset is not '
                'the one that the clean accuracy was measured on: its file '
                'has changed meanwhile, or its pipeline draws from a random '
                'stream of its own. Remove random transforms from the test '
                'pipeline'
            )


def _gather(done: dict[int, Any]) -> Arrays:
    """The arrays of all ranks, joined in the order of the batches."""
    joined: dict[int, Arrays] = {}
    for part in dist.all_gather_object(done):
        joined |= part
    every = [joined[n] for n in sorted(joined)]
    return {
        name: np.concatenate([one[name] for one in every])
        for name in (every[0] if every else ())
    }
