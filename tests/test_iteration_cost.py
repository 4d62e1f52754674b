"""What an iteration costs, counted: forward and backward passes."""

from typing import Any

import pytest
import torch
from device_free import Watch
from mmengine.optim import OptimWrapper
from tiny import build_adversarial, raw_batch

from m2at_mm import attacks

STEPS = 3
PGD = dict(type='m2at_mm.PGD', steps=STEPS)
TRADES = dict(PGD, loss='kl', noise_std=0.001)
FAST = dict(type='m2at_mm.FGSM', random_start=True, step=1.25)
OPTIONS = dict(mask='patch', pairing='batch', perturbed_label=0.7, scale=2.0)
# Forward passes in all, backward passes in all, those to the parameters.
METHODS: list[tuple[str, dict, dict, tuple[int, int, int]]] = [
    ('Standard', {}, PGD, (1, 1, 1)),
    ('PGDAT', {}, PGD, (STEPS + 1, STEPS + 1, 1)),
    ('M2AT', {}, PGD, (STEPS + 1, STEPS + 1, 1)),
    ('M2AT', OPTIONS, PGD, (STEPS + 1, STEPS + 1, 1)),
    # The clean images: once for the attack, once for the loss.
    ('TRADES', {}, TRADES, (STEPS + 3, STEPS + 2, 2)),
    ('MART', {}, PGD, (STEPS + 2, STEPS + 2, 2)),
    ('AVmixup', {}, PGD, (STEPS + 1, STEPS + 1, 1)),
    ('IAT', {}, PGD, (STEPS + 2, STEPS + 2, 2)),
    ('PGDAT', {}, FAST, (2, 2, 1)),
    ('PGDAT', {}, dict(type='m2at_mm.NFGSM'), (2, 2, 1)),
]


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its check of ball and box is a wait, and not there in training.
    monkeypatch.delenv('M2AT_MM_DEBUG')


def count_convolutions(model: Any) -> int:
    """As many batch norms are behind them."""
    return sum(isinstance(one, torch.nn.Conv2d) for one in model.modules())


@pytest.mark.usefixtures('training')
@pytest.mark.parametrize(('method', 'settings', 'attack', 'passes'), METHODS)
def test_passes_and_optimiser_steps(
    method: str, settings: dict, attack: dict, passes: tuple[int, int, int]
) -> None:
    model = build_adversarial(
        method=dict(type=f'm2at_mm.{method}', **settings), train_attack=attack
    ).train()
    batch = model.data_preprocessor(raw_batch(num=4), training=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps: list[int] = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    with Watch() as watch:
        loss, _ = model.parse_losses(model(**batch, mode='loss'))
        OptimWrapper(optimizer).update_params(loss)
    calls, convolutions = watch.calls, count_convolutions(model)
    kinds = 'aten.convolution', 'aten.convolution_backward', 'weight gradient'
    found = [calls[kind] for kind in kinds]
    assert found == [number * convolutions for number in passes]
    assert len(steps) == 1
    if method == 'PGDAT' and attack is PGD:
        # Batch norms work in the attack's first step and in training only.
        for name in ('native_batch_norm', 'native_batch_norm_backward'):
            assert calls[f'aten.{name}'] == 2 * convolutions


@pytest.mark.usefixtures('training')
@pytest.mark.parametrize(('steps', 'folded'), [(7, False), (8, True)])
def test_norms_are_folded_where_it_pays(steps: int, folded: bool) -> None:
    # Any device but the CPU counts as a GPU.
    model = build_adversarial().eval().to('meta')
    images = torch.rand(2, 3, 32, 32, device='meta')
    labels = torch.zeros(2, dtype=torch.int64, device='meta')
    attack = attacks.PGD(steps)
    with Watch() as watch:
        attack(model, images, labels, model.threat_model, check_range=False)
    seen = sum(n for name, n in watch.calls.items() if 'batch_norm' in name)
    # Both ways; where they are folded, in the first step only.
    expected = 2 if folded else 2 * steps
    assert seen == expected * count_convolutions(model)


def test_step_allocates_one_tensor() -> None:
    images = torch.rand(2, 3, 8, 8)
    ball = attacks.ThreatModel().ball(images)
    with Watch() as watch:
        ball.step(images, torch.randn_like(images), 0.01)
    made = {'aten.randn_like': 1, 'aten.sign': 1}
    in_place = {'aten.mul_': 1, 'aten.add_': 1, 'aten.clamp': 1}
    assert watch.calls == made | in_place


def test_fooled_images_leave_the_batch() -> None:
    model = build_adversarial(eval_attacks=dict(pgd=PGD)).eval()
    batch = model.data_preprocessor(raw_batch(num=4))
    seen: list[int] = []
    backbone = model.classifier.backbone
    backbone.register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    model(**batch, mode='predict')
    # One pass of the clean images decides which of them are attacked at all.
    # A new network is right on few of the four.
    assert seen[0] == 4
    assert sum(seen) < (STEPS + 3) * 4
