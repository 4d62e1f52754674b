import pickle

import pytest
import torch

from m2at_mm.structures import BatchLabels

LABELS = torch.tensor([3, 0, 1])
SCORES = torch.eye(4)[LABELS]


@pytest.mark.parametrize('scores', [None, SCORES], ids=['hard', 'soft'])
def test_all_of_it_moves(scores: torch.Tensor | None) -> None:
    given = BatchLabels(LABELS, scores)
    assert given.target is (LABELS if scores is None else SCORES)
    moved = given.to('meta', non_blocking=True)
    assert moved.labels.device.type == moved.target.device.type == 'meta'
    assert (moved.scores is None) == (scores is None)
    assert given.labels.device.type == given.target.device.type == 'cpu'
    # From process to process.
    copy = pickle.loads(pickle.dumps(given))
    assert torch.equal(copy.labels, LABELS)
    assert torch.equal(copy.target, given.target)
