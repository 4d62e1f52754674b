import pytest
import torch

from m2at_mm.methods.base import one_hot, smooth_labels


@pytest.mark.parametrize(
    ('target', 'kept', 'expected'),
    [
        ([0, 1, 0, 0, 0], 1.0, [0, 1, 0, 0, 0]),
        ([0, 1, 0, 0, 0], 0.6, [0.1, 0.6, 0.1, 0.1, 0.1]),
        ([0, 1, 0, 0, 0], 0.2, [0.2, 0.2, 0.2, 0.2, 0.2]),
        ([0, 1, 0, 0, 0], 0.0, [0.25, 0, 0.25, 0.25, 0.25]),
        ([0.75, 0.25], 0.8, [0.65, 0.35]),
        ([0.5, 0.5, 0], 0.7, [0.425, 0.425, 0.15]),
    ],
)
def test_smooth_labels(target: list, kept: float, expected: list) -> None:
    given = torch.tensor([target], dtype=torch.float32)

    smooth = smooth_labels(given, kept)

    assert smooth[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert given[0].tolist() == target


def test_one_hot() -> None:
    labels, scores = torch.tensor([2, 0]), torch.tensor([[0.2, 0.8]])
    target = one_hot(labels, 4)
    assert target.dtype == torch.float32
    assert target.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert one_hot(scores, None) is one_hot(scores, 4) is scores
    with pytest.raises(ValueError, match='set num_classes'):
        one_hot(labels, None)
