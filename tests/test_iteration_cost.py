"""What an iteration costs, counted: passes, gradients, waits of the host."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from tiny import build_adversarial, raw_batch
from torch.utils._python_dispatch import TorchDispatchMode

#: Operations whose result the host reads: on a GPU it waits for them.
READS = (
    'aten._local_scalar_dense',
    'aten.is_nonzero',
    'aten.nonzero',
    'aten.masked_select',
)
STEPS = 3
PGD = dict(type='m2at_mm.PGD', steps=STEPS)
TRADES = dict(PGD, loss='kl', noise_std=0.001)
FAST = dict(type='m2at_mm.FGSM', random_start=True, step=1.25)
OPTIONS = dict(mask='patch', pairing='batch', perturbed_label=0.7, scale=2.0)
# Forward passes in all, backward passes in all, those to the parameters.
# Each attack has one forward pass of a single image, which looks for
# convolutions that can do the work of batch norms.
METHODS: list[tuple[str, dict, dict, tuple[int, int, int]]] = [
    ('Standard', {}, PGD, (1, 1, 1)),
    ('PGDAT', {}, PGD, (STEPS + 2, STEPS + 1, 1)),
    ('M2AT', {}, PGD, (STEPS + 2, STEPS + 1, 1)),
    ('M2AT', OPTIONS, PGD, (STEPS + 2, STEPS + 1, 1)),
    # The clean images: once for the attack, once for the loss.
    ('TRADES', {}, TRADES, (STEPS + 4, STEPS + 2, 2)),
    ('MART', {}, PGD, (STEPS + 3, STEPS + 2, 2)),
    ('AVmixup', {}, PGD, (STEPS + 2, STEPS + 1, 1)),
    ('IAT', {}, PGD, (STEPS + 3, STEPS + 2, 2)),
    ('PGDAT', {}, FAST, (3, 2, 1)),
    ('PGDAT', {}, dict(type='m2at_mm.NFGSM'), (3, 2, 1)),
]


class Counts(TorchDispatchMode):
    """Counts operations, and those whose result the host reads."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = str(func).rsplit('.', 1)[0]
        self.calls[name] += 1
        if name == 'aten.convolution_backward' and args[-1][1]:
            self.calls['weight gradient'] += 1
        return func(*args, **(kwargs or {}))

    @property
    def reads(self) -> int:
        return sum(self.calls[name] for name in READS)


def _one_iteration(
    method: str, settings: dict, attack: dict
) -> tuple[Counts, int]:
    model = build_adversarial(
        method=dict(type=f'm2at_mm.{method}', **settings), train_attack=attack
    ).train()
    batch = model.data_preprocessor(raw_batch(num=4), training=True)
    convolutions = sum(
        isinstance(module, torch.nn.Conv2d) for module in model.modules()
    )
    with Counts() as counts:
        losses = model(**batch, mode='loss')
        loss = sum(v for name, v in losses.items() if 'loss' in name)
        loss.backward()
    return counts, convolutions


@pytest.mark.parametrize(('method', 'settings', 'attack', 'passes'), METHODS)
def test_passes_and_waits(
    method: str,
    settings: dict,
    attack: dict,
    passes: tuple[int, int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Its check of ball and box is a wait, and not there in training.
    monkeypatch.delenv('M2AT_MM_DEBUG')
    counts, convolutions = _one_iteration(method, settings, attack)
    calls = counts.calls
    operations = ('convolution', 'convolution_backward')
    found = [calls[f'aten.{name}'] for name in operations]
    found.append(calls['weight gradient'])
    assert found == [number * convolutions for number in passes]
    assert counts.reads == 0
    if method == 'PGDAT' and attack is PGD:
        # Batch norms work in the search for pairs and in training only.
        assert calls['aten.native_batch_norm'] == 2 * convolutions
        assert calls['aten.native_batch_norm_backward'] == convolutions


def test_step_allocates_one_tensor() -> None:
    model = build_adversarial()
    images = torch.rand(2, 3, 8, 8)
    ball = model.threat_model.ball(images)
    with Counts() as counts:
        ball.step(images, torch.randn_like(images), 0.01)
    made = {'aten.randn_like': 1, 'aten.sign': 1}
    in_place = {'aten.mul_': 1, 'aten.add_': 1, 'aten.clamp': 1}
    assert counts.calls == made | in_place


def test_fooled_images_leave_the_batch() -> None:
    model = build_adversarial(
        eval_attacks=dict(pgd=dict(type='m2at_mm.PGD', steps=STEPS))
    ).eval()
    batch = model.data_preprocessor(raw_batch(num=4))
    seen: list[int] = []
    model.classifier.backbone.register_forward_pre_hook(
        lambda module, args: seen.append(len(args[0]))
    )
    model(**batch, mode='predict')
    # One pass of the clean images decides which of them are attacked at all.
    # A new network is right on few of the four.
    assert seen[0] == 4
    assert sum(seen) < (STEPS + 3) * 4


def test_counts_see_a_read_and_a_full_gradient() -> None:
    # The guard itself: what it must not overlook.
    convolution = torch.nn.Conv2d(3, 4, 3)
    with Counts() as counts:
        loss = convolution(torch.rand(1, 3, 8, 8)).sum()
        loss.backward()
        loss.item()
        bool(loss.isfinite().all())
    assert counts.calls['weight gradient'] == 1
    assert counts.reads == 2


def test_optimiser_steps_once() -> None:
    model = build_adversarial(train_attack=PGD).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps: list[int] = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    model.train_step(raw_batch(num=4), OptimWrapper(optimizer))
    assert len(steps) == 1
