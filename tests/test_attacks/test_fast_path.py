"""All that makes the attack fast at once, against the plainest loop.

Real images, single precision, the whole classifier: convolutions that do the
work of batch norms, channels-last batches, in-place steps, images alone
differentiated.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tiny import build_adversarial, classifier_cfg
from torch import Tensor, nn

EPS, SIZE, STEPS = 8 / 255, 2 / 255, 10


def test_images_are_those_of_the_plain_loop(
    robust_model: nn.Module, cifar10_images: Callable
) -> None:
    model = build_adversarial(
        classifier=classifier_cfg(base_channels=8, stem_channels=8),
        train_attack=dict(type='m2at_mm.PGD', steps=STEPS, step_size='2/255'),
        # The weights were trained on images in [0, 1].
        data_preprocessor=dict(mean=[0] * 3, std=[255] * 3, num_classes=10),
    )
    model.load_state_dict(robust_model.state_dict())
    images, labels = cifar10_images(64)
    fast = images.to(memory_format=torch.channels_last)
    torch.manual_seed(0)
    found = model.train().train_attack(model, fast, labels, model.threat_model)
    torch.manual_seed(0)
    noise = torch.empty_like(fast).uniform_(-EPS, EPS)
    adversarial = (images + noise).clamp(0, 1)
    for _ in range(STEPS):
        leaf = adversarial.contiguous().detach().requires_grad_(True)
        loss = F.cross_entropy(robust_model(leaf), labels, reduction='sum')
        (gradient,) = torch.autograd.grad(loss, leaf)
        moved = adversarial + SIZE * gradient.sign()
        adversarial = images + (moved - images).clamp(-EPS, EPS)
        adversarial = adversarial.clamp(0, 1)
    # Rounding turns the sign of a gradient that is nearly zero.
    same = ((found - adversarial).abs() < 1e-6).float().mean()
    assert same > 0.99

    def mean_loss(of: Tensor) -> float:
        return F.cross_entropy(robust_model(of), labels).item()

    assert mean_loss(found) > 1.3 * mean_loss(images)  # it does attack
    assert mean_loss(found) == pytest.approx(mean_loss(adversarial), rel=1e-3)
