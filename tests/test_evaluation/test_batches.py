from __future__ import annotations

import pytest
import torch
from torch import Tensor

from m2at_mm.evaluation.batches import run_in_memory


def _with_room_for(limit: int, sizes: list[int]):  # type: ignore[no-untyped-def]
    def function(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if len(images) > limit:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory')
        sizes.append(len(images))
        return images * 2, labels + 1

    return function


def test_batch_is_halved_until_it_fits() -> None:
    images, labels = torch.rand(10, 1, 2, 2), torch.arange(10)
    sizes: list[int] = []
    doubled, after = run_in_memory(_with_room_for(3, sizes), images, labels)
    assert torch.equal(doubled, images * 2)
    assert torch.equal(after, labels + 1)
    assert max(sizes) <= 3 and sum(sizes) == 10


def test_one_image_that_does_not_fit_is_a_clear_error() -> None:
    with pytest.raises(RuntimeError, match='too little memory for one image'):
        run_in_memory(
            _with_room_for(0, []), torch.rand(2, 1, 2, 2), torch.arange(2)
        )


def test_other_errors_pass() -> None:
    def fail(images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError('shape mismatch')

    with pytest.raises(RuntimeError, match='shape mismatch'):
        run_in_memory(fail, torch.rand(2, 1, 2, 2), torch.arange(2))
