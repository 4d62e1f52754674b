from __future__ import annotations

import pytest
import torch
from tiny import build_adversarial, raw_batch

from m2at_mm.benchmark import build_rivals, flops_per_iteration, peak_flops


@pytest.mark.parametrize('steps', [1, 4])
def test_flops_are_those_of_the_convolutions(steps: int) -> None:
    model = build_adversarial(
        train_attack=dict(type='m2at_mm.PGD', steps=steps)
    )
    batch = model.data_preprocessor(raw_batch(num=2))
    sizes: list[int] = []

    def note(module: torch.nn.Conv2d, args: tuple, out: torch.Tensor) -> None:
        # 2 operations per weight, output position and image.
        sizes.append(2 * out[:, 0].numel() * module.weight.numel())

    handles = [
        module.register_forward_hook(note)
        for module in model.modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    model(batch['inputs'])
    for handle in handles:
        handle.remove()
    fully_connected = 2 * 2 * model.classifier.head.fc.weight.numel()
    forward = sum(sizes) + fully_connected
    # A gradient of the images costs a forward pass, and one of the weights
    # another; in the full step nobody asks for that of the images.
    expected = steps * 2 * forward + 3 * forward - sizes[0]
    limit = build_rivals(
        ['limit'], model, batch['inputs'], torch.tensor([1, 2])
    )['limit']
    assert flops_per_iteration(limit) == expected


def test_a_cpu_has_no_peak_known() -> None:
    assert peak_flops(torch.device('cpu')) is None
