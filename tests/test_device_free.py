"""Whole training steps and evaluation batches: what they wait for and cost."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from device_free import HostWaitError, Watch, beta_without_values
from mmengine.dataset import pseudo_collate
from mmengine.hooks import LoggerHook
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop
from tiny import ATTACKS, METHODS, NORMS, PGD, build_adversarial, raw_batch
from torch import Tensor

from m2at_mm import attacks
from m2at_mm.evaluation.samples import Samples
from m2at_mm.hooks import CollapseGuardHook, RuntimeInfoHook
from m2at_mm.optim import AWPOptimWrapper
from m2at_mm.registry import TASK_UTILS


@pytest.fixture(autouse=True)
def _training(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    logging.getLogger('mmengine').setLevel(logging.WARNING)
    # Its check of ball and box is a wait, and not there in training.
    monkeypatch.delenv('M2AT_MM_DEBUG')
    with beta_without_values():
        yield


def _model(device: str = 'meta', **settings: Any) -> Any:
    return build_adversarial(**settings).train().to(device)


def _step(
    model: Any, num: int = 4, amp: bool = False, whole: bool = True
) -> Counter[str]:
    """A forward, a backward pass and a step of SGD; what was called."""
    decay = dict(lr=0.1, momentum=0.9, weight_decay=5e-4)
    optimizer = torch.optim.SGD(model.parameters(), **decay)
    batch = (tiny.whole_batch if whole else tiny.raw_batch)(num)
    batch = model.data_preprocessor(batch, training=True)
    # Autocast knows no meta device: half precision is watched on the CPU.
    precision = torch.autocast('cpu', torch.bfloat16) if amp else nullcontext()
    with Watch() as watch:
        with precision:
            losses = model(**batch, mode='loss')
        loss, _ = model.parse_losses(losses)
        OptimWrapper(optimizer).update_params(loss)
    return watch.calls


@pytest.mark.parametrize('amp', [False, True], ids=['float32', 'amp'])
@pytest.mark.parametrize('norm', NORMS)
@pytest.mark.parametrize('name', METHODS)
def test_a_method_waits_for_nothing(name: str, norm: str, amp: bool) -> None:
    cfg = dict(method=METHODS[name], threat_model=NORMS[norm])
    cfg['train_attack'] = ATTACKS['kl pgd' if name == 'trades' else 'pgd']
    _step(_model('cpu' if amp else 'meta', **cfg), amp=amp)


# N-FGSM is defined for linf.
PAIRS = [(a, n) for a in ATTACKS for n in NORMS if (a, n) != ('n-fgsm', 'l2')]


@pytest.mark.parametrize(('name', 'norm'), PAIRS)
def test_an_attack_waits_for_nothing(name: str, norm: str) -> None:
    _step(_model(train_attack=ATTACKS[name], threat_model=NORMS[norm]))


CROPPED = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], num_classes=10)
CROPPED['augment'] = dict(crop_padding=4, flip_prob=0.5)


SETTINGS = [dict(label_smoothing=0.1), dict(data_preprocessor=CROPPED)]


@pytest.mark.parametrize('settings', SETTINGS)
@pytest.mark.parametrize('whole', [True, False], ids=['whole', 'samples'])
def test_a_batch_waits_for_nothing(settings: dict, whole: bool) -> None:
    _step(_model(**settings), whole=whole)


def test_weight_perturbation_waits_for_nothing() -> None:
    # It keeps the random streams of a GPU, which are none of the meta device.
    model = _model('cpu')
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = AWPOptimWrapper(optimizer=optimizer)
    batch = model.data_preprocessor(tiny.whole_batch(), training=True)
    with Watch():
        with wrapper.optim_context(model):
            losses = model(**batch, mode='loss')
        loss, _ = model.parse_losses(losses)
        wrapper.update_params(loss)


@pytest.mark.parametrize('name', METHODS)
def test_no_work_of_the_host_grows_with_the_batch(name: str) -> None:
    cfg = dict(method=METHODS[name], train_attack=PGD)
    assert _step(_model(**cfg), num=4) == _step(_model(**cfg), num=8)


@pytest.mark.parametrize('norm', NORMS)
def test_a_batch_of_an_evaluation_is_attacked_on_its_device(norm: str) -> None:
    model = _model(threat_model=NORMS[norm]).eval()
    raw = tiny.raw_batch()
    dataset = [dict(zip(raw, pair)) for pair in zip(*raw.values())]
    samples = Samples(dataset, model.data_preprocessor, pseudo_collate)
    ((images, labels),) = samples.batches([[0, 1, 2, 3]])
    batch = images, labels, model.threat_model
    with Watch():
        found = TASK_UTILS.build(PGD)(model, *batch, check_range=False)
        predicted = model(found).argmax(1)
    assert {t.device.type for t in (found, labels, predicted)} == {'meta'}


# What the tests above must not overlook.
FAULTS: dict[str, Callable[[Tensor], Any]] = {
    'read': lambda images: images.mean().item(),
    'condition': lambda images: bool(images.max() > 1),
    'mask': lambda images: images[images > 0.5].mean(),
    'CPU tensor': lambda images: images + torch.zeros(len(images), 1, 1, 1),
    'copy': lambda images: torch.ones(3).to(images.device),
    'host loop': lambda images: [image.clamp(0, 1) for image in images],
}


@pytest.mark.parametrize('fault', FAULTS)
def test_planted_faults_are_caught(fault: str) -> None:
    model = _model(method=dict(type='m2at_mm.PGDAT'))
    _step(model)
    loss = model.method.loss

    def planted(model: Any, attack: Any, images: Tensor, target: Any) -> Any:
        FAULTS[fault](images)
        return loss(model, attack, images, target)

    model.method.loss = planted
    if fault == 'host loop':
        assert _step(model, num=4) != _step(model, num=8)
        return
    with pytest.raises((HostWaitError, RuntimeError, NotImplementedError)):
        _step(model)


def test_hooks_wait_only_when_they_read() -> None:
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    runner: Any = SimpleNamespace(iter=0, train_loop=loop)
    runner.hooks, runner.train_dataloader = [LoggerHook(10)], range(100)
    runner.message_hub = MessageHub('test_device_free')
    hooks = [RuntimeInfoHook(), CollapseGuardHook()]
    outputs = dict(loss=torch.zeros((), device='meta'), lr=0.1)
    with Watch():
        for runner.iter in range(9):
            for hook in hooks:
                hook.after_train_iter(runner, runner.iter, outputs=outputs)
    runner.iter = 9
    for hook in hooks:
        with pytest.raises(RuntimeError, match='meta'):
            hook.after_train_iter(runner, 9, outputs=outputs)


STEPS = 3
PGD3 = dict(type='m2at_mm.PGD', steps=STEPS)
TRADES = dict(PGD3, loss='kl', noise_std=0.001)
FAST = dict(type='m2at_mm.FGSM', random_start=True, step=1.25)
OPTIONS = dict(mask='patch', pairing='batch', perturbed_label=0.7, scale=2.0)
# Forward passes in all, backward passes in all, those to the parameters.
PASSES: list[tuple[str, dict, dict, tuple[int, int, int]]] = [
    ('Standard', {}, PGD3, (1, 1, 1)),
    ('PGDAT', {}, PGD3, (STEPS + 1, STEPS + 1, 1)),
    ('M2AT', {}, PGD3, (STEPS + 1, STEPS + 1, 1)),
    ('M2AT', OPTIONS, PGD3, (STEPS + 1, STEPS + 1, 1)),
    # The clean images: once for the attack, once for the loss.
    ('TRADES', {}, TRADES, (STEPS + 3, STEPS + 2, 2)),
    ('MART', {}, PGD3, (STEPS + 2, STEPS + 2, 2)),
    ('AVmixup', {}, PGD3, (STEPS + 1, STEPS + 1, 1)),
    ('IAT', {}, PGD3, (STEPS + 2, STEPS + 2, 2)),
    ('PGDAT', {}, FAST, (2, 2, 1)),
    ('PGDAT', {}, dict(type='m2at_mm.NFGSM'), (2, 2, 1)),
]


def count_convolutions(model: Any) -> int:
    """As many batch norms are behind them."""
    return sum(isinstance(one, torch.nn.Conv2d) for one in model.modules())


@pytest.mark.parametrize(('method', 'settings', 'attack', 'passes'), PASSES)
def test_passes_and_optimiser_steps(
    method: str, settings: dict, attack: dict, passes: tuple[int, int, int]
) -> None:
    settings = dict(settings, type=f'm2at_mm.{method}')
    model = build_adversarial(method=settings, train_attack=attack).train()
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
    if method == 'PGDAT' and attack is PGD3:
        # Batch norms work in the attack's first step and in training only.
        for name in ('native_batch_norm', 'native_batch_norm_backward'):
            assert calls[f'aten.{name}'] == 2 * convolutions


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
    model = build_adversarial(eval_attacks=dict(pgd=PGD3)).eval()
    batch = model.data_preprocessor(raw_batch(num=4))
    seen: list[int] = []
    backbone = model.classifier.backbone
    backbone.register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    model(**batch, mode='predict')
    # One pass of the clean images decides which of them are attacked at all.
    # A new network is right on few of the four.
    assert seen[0] == 4
    assert sum(seen) < (STEPS + 3) * 4
