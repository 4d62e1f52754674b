from __future__ import annotations

import pytest
import torch
from tiny import build_adversarial

from benchmarking.flops import count_flops, peak_flops
from benchmarking.rivals import Limit


@pytest.mark.parametrize('steps', [1, 4])
def test_flops_are_those_of_the_convolutions(steps: int) -> None:
    model = build_adversarial(
        train_attack=dict(type='m2at_mm.PGD', steps=steps)
    )
    sizes: list[int] = []

    def note(module: torch.nn.Conv2d, args: tuple, out: torch.Tensor) -> None:
        # 2 operations per weight, output position and image.
        sizes.append(2 * out[:, 0].numel() * module.weight.numel())

    images, labels = torch.rand(2, 3, 32, 32), torch.tensor([1, 2])
    limit = Limit(model, images, labels)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(note)
    model(images)
    fully_connected = 2 * 2 * model.classifier.head.fc.weight.numel()
    forward = sum(sizes) + fully_connected
    # A gradient of the images costs a forward pass, and one of the weights
    # another; in the full step nobody asks for that of the images.
    assert count_flops(limit) == steps * 2 * forward + 3 * forward - sizes[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU has a peak')
def test_a_cpu_has_no_peak_known() -> None:
    assert peak_flops() is None
