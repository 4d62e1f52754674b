import random
from typing import Any

import numpy as np
import pytest
import torch
from pytest import MonkeyPatch
from torch.utils.data import DataLoader

from m2at_mm.datasets.seeded_pipeline import SeededPipeline, given_streams


def draw(data: dict) -> list[float]:
    """A pipeline that draws from all three streams."""
    return [random.random(), np.random.rand(), torch.rand(()).item()]


def pipeline(epoch: int = 0, seed: int = 0) -> SeededPipeline:
    return SeededPipeline(draw, seed, torch.tensor(epoch))


def sample(index: int) -> dict:
    return dict(sample_idx=index)


def test_draws_of_an_image_are_its_own() -> None:
    epoch = torch.tensor(0)
    one, other = SeededPipeline(draw, 0, epoch), pipeline()
    other(sample(7))
    torch.manual_seed(5)
    first = one(sample(3))
    assert first == other(sample(3))
    for number in (1, 0):  # counts begin anew in each epoch
        epoch.fill_(number)
        assert (one(sample(3)) == first) == (number == 0)


@pytest.mark.parametrize('place', range(3))
def test_they_differ_otherwise(place: int) -> None:
    first = pipeline()
    seen = {
        first(sample(3))[place],
        first(sample(3))[place],  # once more in the epoch
        first(sample(4))[place],
        pipeline(epoch=1)(sample(3))[place],
        pipeline(seed=1)(sample(3))[place],
    }
    assert len(seen) == 5


def test_streams_outside_are_left_alone() -> None:
    found = []
    for transform in (len, pipeline()):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        transform(sample(0))
        found.append(draw({}))
    assert found[0] == found[1]


def test_ranks_draw_apart(monkeypatch: MonkeyPatch) -> None:
    first = pipeline()(sample(0))
    monkeypatch.setattr('m2at_mm.datasets.seeded_pipeline.get_rank', lambda: 1)
    assert pipeline()(sample(0)) != first


def test_it_is_the_pipeline_for_others() -> None:
    class Compose:
        transforms = ('crop',)

        def __call__(self, data: dict) -> Any:
            return len(data)

    seeded = SeededPipeline(Compose(), 0, torch.tensor(0))
    assert seeded({}) == 0  # a sample without number
    assert seeded.transforms == ('crop',)
    with pytest.raises(AttributeError):
        seeded.missing  # noqa: B018


def test_workers_draw_apart_and_each_pass_anew() -> None:
    transform = pipeline()

    def passes() -> list[list]:
        loader = DataLoader(
            [sample(0)] * 4,  # the same image again and again
            num_workers=2,
            collate_fn=lambda batch: transform(*batch),
            generator=torch.Generator().manual_seed(0),
        )
        return [[tuple(row) for row in loader] for _ in range(2)]

    first = passes()
    assert len({row for part in first for row in part}) == 8
    assert passes() == first


def test_a_reader_may_give_the_streams() -> None:
    """Neither the epoch nor how often an image was read counts then."""
    epoch = torch.tensor(0)
    transform = SeededPipeline(draw, 0, epoch)
    found = []
    for number in range(2):
        epoch.fill_(number)
        with given_streams((5, 3)):
            found.append(transform(sample(3)))
    assert found[0] == found[1]
    epoch.fill_(0)
    # Readings of the training are not disturbed.
    assert transform(sample(3)) == pipeline()(sample(3)) != found[0]
