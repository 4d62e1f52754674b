"""All that makes the attack fast at once, against the plainest loop.

Real images, single precision, the whole classifier: convolutions that do the
work of batch norms, channels-last batches, in-place steps, images alone
differentiated.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper
from tiny import build_adversarial, build_stock, classifier_cfg
from torch import Tensor

from m2at_mm.datasets import Digits, whole_batch_collate

EPS, SIZE, STEPS = 8 / 255, 2 / 255, 10
WIDTH = dict(base_channels=8, stem_channels=8)


def _batch(model: Any, indices: range) -> tuple[Tensor, Tensor]:
    dataset = Digits(pipeline=[dict(type='PackInputs')], whole_batches=True)
    batch = whole_batch_collate(dataset.__getitems__(list(indices)))
    batch = model.data_preprocessor(batch)
    return batch['inputs'], batch['data_samples'].labels


@pytest.fixture(scope='module')
def trained() -> Any:
    """Trained on clean digits until it is right on most of them."""
    settings = dict(
        classifier=classifier_cfg(**WIDTH),
        method=dict(type='m2at_mm.Standard'),
        train_attack=dict(type='m2at_mm.PGD', steps=STEPS, step_size='2/255'),
    )
    model = build_adversarial(**settings).train()
    optimizer = OptimWrapper(torch.optim.Adam(model.parameters(), lr=5e-3))
    for step in range(75):
        first = 32 * (step % 25)
        images, labels = _batch(model, range(first, first + 32))
        losses, _ = model.supervised_loss(images, labels)
        optimizer.update_params(losses['loss'])
    return model


def test_images_are_those_of_the_plain_loop(trained: Any) -> None:
    images, labels = _batch(trained, range(900, 964))
    # The stock classifier with the same weights, in mmpretrain's layout.
    stock = build_stock(classifier_cfg(**WIDTH)).eval()
    stock.load_state_dict(trained.state_dict())

    def logits(images: Tensor) -> Tensor:
        pixels = dict(inputs=255 * images.contiguous())
        return stock(stock.data_preprocessor(pixels)['inputs'], mode='tensor')

    torch.manual_seed(0)
    found = trained.train().train_attack(
        trained, images, labels, trained.threat_model
    )
    torch.manual_seed(0)
    noise = torch.empty_like(images).uniform_(-EPS, EPS)
    adversarial = (images + noise).clamp(0, 1)
    for _ in range(STEPS):
        adversarial.requires_grad_(True)
        loss = F.cross_entropy(logits(adversarial), labels, reduction='sum')
        (gradient,) = torch.autograd.grad(loss, adversarial)
        adversarial = adversarial.detach()
        moved = adversarial + SIZE * gradient.sign()
        adversarial = images + (moved - images).clamp(-EPS, EPS)
        adversarial = adversarial.clamp(0, 1)
    # Rounding turns the sign of a gradient that is nearly zero.
    same = ((found - adversarial).abs() < 1e-6).float().mean()
    assert same > 0.99
    losses = [
        F.cross_entropy(logits(one), labels).item()
        for one in (images, found, adversarial)
    ]
    assert losses[1] > 1.3 * losses[0]  # the attack does attack
    assert losses[1] == pytest.approx(losses[2], rel=1e-3)
