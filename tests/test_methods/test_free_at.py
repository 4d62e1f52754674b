"""FreeAT against the published loop, on the Runner's own steps."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper
from tiny import RECIPES, build_adversarial, build_stock, labels_of, raw_batch

EPS = 8 / 255


def test_published_loop() -> None:
    """Three replays of each of three batches, the last one smaller."""
    batches = [*(raw_batch(4, seed=k) for k in (0, 1)), raw_batch(3)]
    ours = build_adversarial(**RECIPES['FreeAT']).train()
    ours.data_preprocessor.memory_format = torch.contiguous_format
    stock = build_stock().train()
    stock.load_state_dict(ours.state_dict())
    wrapper = OptimWrapper(torch.optim.SGD(ours.parameters(), lr=0.01))
    optimiser = torch.optim.SGD(stock.parameters(), lr=0.01)
    data = stock.data_preprocessor
    noise = torch.zeros(4, 3, 32, 32)
    for batch in batches:
        images = batch['inputs'].float() / 255
        labels = labels_of(batch['data_samples'])
        for _ in range(3):
            own = ours.train_step(batch, wrapper)['loss']
            num = len(images)
            delta = noise[:num].clone().requires_grad_(True)
            seen = (images + delta).clamp(0, 1)
            logits = stock((seen * 255 - data.mean) / data.std, mode='tensor')
            loss = F.cross_entropy(logits, labels)
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
    threat_model = dict(norm=norm, eps='128/255')
    ours = build_adversarial(**RECIPES['FreeAT'], threat_model=threat_model)
    ours.train()
    wrapper = OptimWrapper(torch.optim.SGD(ours.parameters(), lr=0.01))
    for _ in range(4):
        ours.train_step(raw_batch(), wrapper)
    moved = ours.method.state_dict()['perturbation'].flatten(1)
    length = moved.abs().amax(1) if norm == 'linf' else moved.norm(dim=1)
    assert length.max() <= 128 / 255 * (1 + 1e-6)
    assert length.min() > 0.9 * 128 / 255
