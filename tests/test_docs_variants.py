"""The parts of M2AT that docs/results/trade_off_parts.py measures."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import torch
from tools_support import DOCS

from m2at_mm.registry import TASK_UTILS


@pytest.fixture(scope='module', autouse=True)
def variants() -> Iterator[None]:
    """Registers them, for this file only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS / 'results')
        import_module('trade_off_variants')
        yield
    for name, kind in [*TASK_UTILS.module_dict.items()]:
        if kind.__module__ == 'trade_off_variants':
            TASK_UTILS.module_dict.pop(name)


def test_m2at_taken_apart() -> None:
    """The mask goes, then the draw of the share."""
    torch.manual_seed(0)
    images, label = torch.full((4000, 3, 4, 4), 0.5), torch.eye(2)[[0]]
    adversarial, target = images + 0.1, label.expand(4000, 2)

    def mixed(name: str) -> Any:
        method = TASK_UTILS.build(dict(type=f'm2at_mm.{name}'))
        return method.mix(images, adversarial, target, method.draw(images))

    whole, shares, half = map(mixed, ('M2AT', 'RandomShare', 'ConstantShare'))
    assert whole.keep_map.std((1, 2, 3)).mean() > 0.1
    for one in (shares, half):
        assert one.keep_map.std((1, 2, 3)).max() < 1e-6
    for moment in (torch.mean, torch.std):
        pair = (moment(one.kept_share).item() for one in (shares, whole))
        assert next(pair) == pytest.approx(next(pair), abs=0.02)
    assert half.kept_share.unique().tolist() == [0.5]


def test_masks_in_the_attack() -> None:
    torch.manual_seed(0)
    images = torch.full((4000, 3, 4, 4), 0.5)
    adversarial, target = images + 0.1, torch.zeros(4000).long()
    seen: list[Any] = []

    def attack(model: Any, clean: Any, labels: Any) -> Any:
        for _ in range(2):
            model(adversarial)
        return adversarial

    def network(given: Any) -> Any:
        seen.append((given - images) / 0.1)
        return torch.zeros(len(given), 2)

    network.num_classes = 2  # type: ignore[attr-defined]
    method = TASK_UTILS.build(dict(type='m2at_mm.MaskedAttack', scale=1.5))
    method.training_batch(network, attack, images, target)
    first, second = (keep / 1.5 for keep in seen)
    assert not torch.equal(first, second)
    for keep in (first, second):
        assert keep.mean().item() == pytest.approx(0.5, abs=0.02)
        # Of each image two values, which add up to one.
        low, high = (keep.amin((1, 2, 3)), keep.amax((1, 2, 3)))
        two = low < high - 1e-3
        assert two.float().mean() > 0.5
        assert torch.allclose((low + high)[two], torch.ones(()), atol=1e-4)
