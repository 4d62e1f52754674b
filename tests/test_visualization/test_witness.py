from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from m2at_mm.attacks import ThreatModel
from m2at_mm.methods import Standard
from m2at_mm.visualization.witness import Witness

CLEAN, OTHER = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
LABELS = torch.eye(5)[[1, 2]]


class Linear:
    """Five logits from the mean of an image; it has no loss."""

    num_classes = 5
    threat_model = ThreatModel()

    def __call__(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3), keepdim=True).view(-1, 1) * torch.ones(5)

    supervised_loss: Any = None


def test_clean_images_are_no_training_images() -> None:
    witness = Witness(Linear(), CLEAN, LABELS)
    soft = torch.full((2, 5), 0.2)
    losses, logits = witness.supervised_loss(OTHER, soft)
    assert torch.equal(witness.images, OTHER)
    assert torch.equal(witness.target, soft)
    assert losses == dict(loss=torch.zeros(()))
    assert logits is not None and torch.equal(logits, torch.ones(2, 5))
    # As a consistency loss looks at them.
    assert torch.equal(witness(CLEAN), torch.zeros(2, 5))
    witness.supervised_loss(CLEAN, LABELS)
    assert torch.equal(witness.images, OTHER)
    assert torch.equal(witness.target, soft)


def test_labels_become_probabilities() -> None:
    witness = Witness(Linear(), CLEAN, LABELS)
    witness.supervised_loss(OTHER, torch.tensor([3, 4]))
    assert torch.equal(witness.target, torch.eye(5)[[3, 4]])


def test_a_method_that_sees_clean_images_only() -> None:
    witness = Witness(Linear(), CLEAN, LABELS)
    Standard().loss(witness, None, CLEAN, torch.tensor([1, 2]))
    assert torch.equal(witness.images, CLEAN)
    assert torch.equal(witness.target, LABELS)
