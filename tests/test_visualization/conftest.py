import pytest
import torch
from torch import Tensor

from m2at_mm.datasets import Digits


@pytest.fixture(scope='session')
def digits() -> tuple[Tensor, Tensor]:
    """Images of 3, 4 and 5 in [0, 1], shape (3, 3, 32, 32), and labels."""
    samples = [Digits(split='test', indices=6)[k] for k in (3, 4, 5)]
    images = [torch.from_numpy(one['img']).permute(2, 0, 1) for one in samples]
    labels = torch.tensor([one['gt_label'] for one in samples])
    return torch.stack(images) / 255, labels
