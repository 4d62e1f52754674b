"""FreeAT against the published loop, on the Runner's own steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample
from tiny import MEAN, STD, build_adversarial, build_stock

EPS = 8 / 255


def _batch(seed: int, num: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(
        256, (num, 3, 32, 32), generator=generator, dtype=torch.uint8
    )
    labels = torch.randint(10, (num,), generator=generator)
    samples = [DataSample().set_gt_label(int(label)) for label in labels]
    return dict(inputs=pixels, data_samples=samples)


def test_published_loop() -> None:
    """Three replays of each of three batches, the last one smaller."""
    batches = [_batch(0, 4), _batch(1, 4), _batch(2, 3)]
    ours = build_adversarial(
        method=dict(type='m2at_mm.FreeAT'), train_attack=None
    ).train()
    ours.data_preprocessor.memory_format = torch.contiguous_format
    stock = build_stock().train()
    stock.load_state_dict(ours.state_dict())
    wrapper = OptimWrapper(torch.optim.SGD(ours.parameters(), lr=0.01))
    optimiser = torch.optim.SGD(stock.parameters(), lr=0.01)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (MEAN, STD))
    noise = torch.zeros(4, 3, 32, 32)
    for batch in batches:
        images = batch['inputs'].float() / 255
        labels = torch.cat([s.gt_label for s in batch['data_samples']])
        for _ in range(3):
            own = ours.train_step(batch, wrapper)['loss']
            num = len(images)
            delta = noise[:num].clone().requires_grad_(True)
            seen = (images + delta).clamp(0, 1)
            loss = F.cross_entropy(
                stock((seen * 255 - mean) / std, mode='tensor'), labels
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            noise[:num] += EPS * delta.grad.sign()
            noise.clamp_(-EPS, EPS)
            assert own.item() == pytest.approx(loss.item(), abs=1e-4)
    for parameter, other in zip(ours.parameters(), stock.parameters()):
        torch.testing.assert_close(parameter, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_perturbation_stays_in_the_ball(norm: str) -> None:
    ours = build_adversarial(
        method=dict(type='m2at_mm.FreeAT'),
        train_attack=None,
        threat_model=dict(norm=norm, eps='128/255'),
    ).train()
    wrapper = OptimWrapper(torch.optim.SGD(ours.parameters(), lr=0.01))
    for _ in range(3):
        ours.train_step(_batch(0, 4), wrapper)
    moved = ours.method._advance(ours, torch.rand(4, 3, 32, 32)).flatten(1)
    length = moved.abs().amax(1) if norm == 'linf' else moved.norm(dim=1)
    assert length.max() <= 128 / 255 * (1 + 1e-6)
    assert length.min() > 0.9 * 128 / 255
