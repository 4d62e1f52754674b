"""Adversarial weight perturbation against the published rule by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import (
    MEAN,
    STD,
    build_adversarial,
    build_stock,
    classifier_cfg,
    raw_batch,
)
from torch import Tensor, nn

from m2at_mm.optim import AWPOptimWrapper
from m2at_mm.registry import OPTIM_WRAPPERS

GAMMA, RATE = 0.05, 0.1


def _model(**settings: Any) -> Any:
    # With zero-initialised branches half of the gradients would be zero.
    classifier = classifier_cfg(zero_init_residual=False)
    defaults = dict(method=dict(type='m2at_mm.PGDAT'), classifier=classifier)
    model = build_adversarial(**{**defaults, **settings}).train()
    model.data_preprocessor.memory_format = torch.contiguous_format
    return model


def _wrapper(model: nn.Module, **settings: Any) -> Any:
    return OPTIM_WRAPPERS.build(
        dict(
            type='m2at_mm.AWPOptimWrapper',
            optimizer=torch.optim.SGD(model.parameters(), lr=RATE),
            **{'gamma': GAMMA, **settings},
        )
    )


def _inputs(adversarial: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (MEAN, STD))
    return (adversarial * 255 - mean) / std


def _by_hand(
    net: nn.Module, images: Tensor, labels: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Weights after one step, and the gradients that it took."""
    old = copy.deepcopy(net)
    F.cross_entropy(net(images, mode='tensor'), labels).backward()
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim > 1:
                g = weight.grad
                weight += GAMMA * weight.norm() / g.norm() * g
    net.load_state_dict(
        {**net.state_dict(), **dict(old.named_buffers())}, strict=False
    )
    net.zero_grad()
    F.cross_entropy(net(images, mode='tensor'), labels).backward()
    gradients = [weight.grad for weight in net.parameters()]
    stepped = [
        weight.detach() - RATE * gradient
        for weight, gradient in zip(old.parameters(), gradients)
    ]
    return stepped, gradients


def _with_known_images(model: Any, batch: dict) -> tuple[Tensor, Tensor]:
    """Replace the attack by one whose images are known."""
    images = batch['inputs'].float() / 255
    adversarial = (images + 8 / 255 * (torch.rand_like(images) - 0.5)).clamp(
        0, 1
    )
    model.train_attack = lambda *args, **kwargs: adversarial
    labels = torch.cat([s.gt_label for s in batch['data_samples']])
    return adversarial, labels


def test_step_equals_the_hand_computation() -> None:
    torch.manual_seed(1)
    model, batch = _model(), raw_batch()
    adversarial, labels = _with_known_images(model, batch)
    stock = build_stock().train()
    stock.load_state_dict(model.state_dict())
    expected, gradients = _by_hand(stock, _inputs(adversarial), labels)
    seen: list[Tensor] = []
    wrapper = _wrapper(model)
    step = wrapper.optimizer.step

    def recorded(*args: Any, **kwargs: Any) -> Any:
        seen.extend(p.grad.clone() for p in model.parameters())
        return step(*args, **kwargs)

    wrapper.optimizer.step = recorded
    model.train_step(batch, wrapper)
    for own, gradient in zip(seen, gradients):
        torch.testing.assert_close(own, gradient, atol=2e-5, rtol=1e-3)
    for weight, wanted in zip(model.parameters(), expected):
        torch.testing.assert_close(weight, wanted, atol=2e-6, rtol=1e-4)
    # An iteration updates the statistics of batch norm once.
    assert model.backbone.norm1.num_batches_tracked == 1
    plain = _model()
    plain.train_attack = model.train_attack
    optimizer = torch.optim.SGD(plain.parameters(), lr=RATE)
    wrapper = OPTIM_WRAPPERS.build(
        dict(type='OptimWrapper', optimizer=optimizer)
    )
    plain.train_step(batch, wrapper)
    differ = [
        not torch.allclose(a, b, atol=1e-5)
        for a, b in zip(model.parameters(), plain.parameters())
    ]
    assert any(differ), 'the perturbation changed nothing'


def test_weights_come_back_on_an_exception(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, batch = _model(), raw_batch()
    before = [p.detach().clone() for p in model.parameters()]
    wrapper = _wrapper(model)

    def fail(loss: Tensor) -> None:
        moved = [
            not torch.equal(p, old)
            for p, old in zip(model.parameters(), before)
        ]
        assert any(moved)
        raise KeyboardInterrupt

    monkeypatch.setattr(wrapper, 'backward', fail)
    with pytest.raises(KeyboardInterrupt):
        model.train_step(batch, wrapper)
    for parameter, old in zip(model.parameters(), before):
        assert torch.equal(parameter, old)
    assert model.loss_replay is None


@pytest.mark.parametrize('method', ['M2AT', 'TRADES', 'IAT', 'AVmixup'])
def test_one_attack_per_iteration(method: str) -> None:
    model = _model(method=dict(type=f'm2at_mm.{method}'))
    calls = []
    attack = model.train_attack

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return attack(*args, **kwargs)

    model.train_attack = counted
    log = model.train_step(raw_batch(), _wrapper(model))
    assert len(calls) == 1
    assert torch.isfinite(log['loss'])


def test_gamma_zero_is_the_plain_step() -> None:
    torch.manual_seed(0)
    one, other = _model(), _model()
    batch = raw_batch()
    _with_known_images(one, batch)
    other.train_attack = one.train_attack
    one.train_step(batch, _wrapper(one, gamma=0.0))
    optimizer = torch.optim.SGD(other.parameters(), lr=RATE)
    plain = OPTIM_WRAPPERS.build(
        dict(type='OptimWrapper', optimizer=optimizer)
    )
    other.train_step(batch, plain)
    for a, b in zip(one.parameters(), other.parameters()):
        torch.testing.assert_close(a, b)


def test_warmup_and_accumulation() -> None:
    model, batch = _model(), raw_batch()
    wrapper = _wrapper(model, warmup_iters=1, accumulative_counts=2)
    before = [p.detach().clone() for p in model.parameters()]
    passes: list[int] = []
    method = model.method.loss

    def counted(*args: Any) -> Any:
        passes.append(1)
        return method(*args)

    model.method.loss = counted
    model.train_step(batch, wrapper)
    assert len(passes) == 1  # not perturbed yet
    for parameter, old in zip(model.parameters(), before):
        assert torch.equal(parameter, old)  # nor stepped
    model.train_step(batch, wrapper)
    assert len(passes) == 3
    moved = [
        not torch.equal(p, old) for p, old in zip(model.parameters(), before)
    ]
    assert any(moved)


def test_other_models_are_refused() -> None:
    stock = build_stock()
    with pytest.raises(TypeError, match=r'needs an m2at_mm\.Adversarial'):
        stock.train_step(raw_batch(), _wrapper(stock))


def test_free_at_is_refused() -> None:
    model = _model(method=dict(type='m2at_mm.FreeAT'), train_attack=None)
    with pytest.raises(TypeError, match='FreeAT moves its perturbation'):
        model.train_step(raw_batch(), _wrapper(model))


@pytest.mark.parametrize(
    'settings', [dict(gamma=-0.1), dict(warmup_iters=-1)], ids=str
)
def test_wrong_settings(settings: dict) -> None:
    [(name, value)] = settings.items()
    with pytest.raises(ValueError, match=f'{name}={value}'):
        _wrapper(_model(), **settings)


def test_is_an_optim_wrapper_of_mmengine() -> None:
    from mmengine.optim import OptimWrapper

    assert issubclass(AWPOptimWrapper, OptimWrapper)


def test_weight_without_gradient_is_not_moved() -> None:
    model, batch = _model(classifier=classifier_cfg()), raw_batch()
    model.train_step(batch, _wrapper(model))
    assert all(p.isfinite().all() for p in model.parameters())
