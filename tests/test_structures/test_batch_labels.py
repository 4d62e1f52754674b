from __future__ import annotations

import pickle

import pytest
import torch

from m2at_mm.structures import BatchLabels

LABELS = torch.tensor([3, 0, 1])
SCORES = torch.eye(4)[LABELS]


def test_scores_go_before_labels() -> None:
    assert BatchLabels(LABELS).target is LABELS
    assert BatchLabels(LABELS, SCORES).target is SCORES


@pytest.mark.parametrize('scores', [None, SCORES], ids=['hard', 'soft'])
def test_all_of_it_moves(scores: torch.Tensor) -> None:
    given = BatchLabels(LABELS, scores)
    moved = given.to('meta', non_blocking=True)
    assert moved.labels.device.type == moved.target.device.type == 'meta'
    assert (moved.scores is None) == (scores is None)
    assert given.labels.device.type == given.target.device.type == 'cpu'


def test_goes_from_process_to_process() -> None:
    copy = pickle.loads(pickle.dumps(BatchLabels(LABELS, SCORES)))
    assert torch.equal(copy.labels, LABELS)
    assert torch.equal(copy.scores, SCORES)
