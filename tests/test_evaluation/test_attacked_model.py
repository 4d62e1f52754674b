from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from m2at_mm.attacks import PGD, ThreatModel
from m2at_mm.attacks.batch_norm_folding import no_folding
from m2at_mm.evaluation.attacked_model import (
    Attackable,
    attack_batch,
    run_in_memory,
    with_progress,
)


class Forked(nn.Module):
    """Small batches are normalised by the formula, not by the module."""

    def __init__(self, small: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.small = small
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.1, 0.3)
        self.noise = 0.0

    def forward(self, images: Tensor) -> Tensor:
        out = self.conv(images)
        if len(images) > self.small:
            features = self.norm(out)
        else:
            statistics = self.norm.running_mean, self.norm.running_var
            mean, var = (x.view(-1, 1, 1) for x in statistics)
            features = (out - mean) / (var + self.norm.eps).sqrt()
        logits = self.head(features.relu().mean((2, 3)))
        if self.noise:
            logits = logits + self.noise * torch.randn_like(logits)
        return logits


@pytest.mark.parametrize(
    ('small', 'noise', 'unfolded'),
    [(0, 0.0, False), (23, 0.0, True), (24, 0.0, False), (23, 1.0, False)],
)
def test_a_wrong_way_is_left(small: int, noise: float, unfolded: bool) -> None:
    model = Forked(small).eval()
    images = torch.rand(24, 3, 6, 6)
    with torch.no_grad():  # all classes are near each other
        model.head.bias -= model(images).mean(0)
    labels = model(images).argmax(1)
    model.noise = noise
    given = PGD(8), ThreatModel('linf', '4/255'), images, labels, 0
    found, _ = attack_batch(Attackable(model), *given)
    assert found['unfolded'].tolist() == 24 * [unfolded]
    if noise:
        return
    with no_folding():
        plain, _ = attack_batch(Attackable(model), *given)
    right = plain['predicted'] == labels.numpy()
    assert 0 < right.sum() < 24
    assert (plain['predicted'] == found['predicted']).all()


def _with_room_for(limit: int, sizes: list[int]) -> Callable:
    def function(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if len(images) > limit:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory')
        sizes.append(len(images))
        return dict(doubled=images * 2, after=labels + 1)

    return function


def test_batch_is_halved_until_it_fits() -> None:
    images, labels = torch.rand(10, 1, 2, 2), torch.arange(10)
    sizes: list[int] = []
    found = run_in_memory(_with_room_for(3, sizes), images, labels, 10)
    assert torch.equal(found['doubled'], images * 2)
    assert torch.equal(found['after'], labels + 1)
    assert max(sizes) <= 3 and sum(sizes) == 10


def test_one_image_that_does_not_fit_is_a_clear_error() -> None:
    batch = torch.rand(2, 1, 2, 2), torch.arange(2)
    with pytest.raises(RuntimeError, match='too little memory for one image'):
        run_in_memory(_with_room_for(0, []), *batch, 2)
    with pytest.raises(KeyError, match='another'):  # passes

        def fail(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            raise KeyError('another')

        run_in_memory(fail, *batch, 2)


def test_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    module = 'm2at_mm.evaluation.attacked_model'
    clock = iter(range(0, 1000, 25))
    said: list[str] = []
    monkeypatch.setattr(f'{module}.time.monotonic', lambda: next(clock))
    monkeypatch.setattr(f'{module}.log', said.append)
    model = nn.Flatten()
    for _ in with_progress('ab', model, 'pgd20', passes=4, total=2):
        model(torch.zeros(1, 1))
        model(torch.zeros(1, 1))
    model(torch.zeros(1, 1))  # not counted
    shown = [f'pgd20: {share} %' for share in (12, 25, 62, 75)]
    assert [one.split(',')[0] for one in said] == shown
    assert said[1] == 'pgd20: 25 %, batch 1 of 2, at most 0:02:30 left'
    said.clear()
    for _ in with_progress('ab', model, 'other', passes=None, total=2):
        model(torch.zeros(1, 1))
    assert said[0] == 'other: 0 %, batch 1 of 2'
    assert said[1].startswith('other: 50 %, batch 2 of 2, at most 0:0')
