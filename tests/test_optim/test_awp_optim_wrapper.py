"""Adversarial weight perturbation against the published rule by hand."""

import copy
from typing import Any
from unittest.mock import Mock

import pytest
import tiny
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper
from tiny import build_adversarial, raw_batch
from torch import Tensor, nn

from m2at_mm.optim import LossReplay
from m2at_mm.registry import OPTIM_WRAPPERS

GAMMA, RATE = 0.05, 0.1


def _model(**settings: Any) -> Any:
    # With zero-initialised branches half of the gradients would be zero.
    classifier = tiny.classifier_cfg(zero_init_residual=False)
    settings = dict(tiny.RECIPES['PGDAT'], classifier=classifier) | settings
    model = tiny.build_adversarial(**settings).train()
    model.data_preprocessor.memory_format = torch.contiguous_format
    return model


def _wrapper(model: nn.Module, **settings: Any) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    cfg = dict(type='m2at_mm.AWPOptimWrapper', gamma=GAMMA) | settings
    return OPTIM_WRAPPERS.build(dict(cfg, optimizer=optimizer))


def _plain(model: nn.Module) -> OptimWrapper:
    return OptimWrapper(torch.optim.SGD(model.parameters(), lr=RATE))


def _weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def _differ(model: nn.Module, weights: list[Tensor]) -> bool:
    return not all(map(torch.equal, model.parameters(), weights))


def _inputs(adversarial: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (tiny.MEAN, tiny.STD))
    return (adversarial * 255 - mean) / std


def _by_hand(net: nn.Module, images: Tensor, labels: Tensor) -> tuple:
    """Weights after one step, and the gradients that it took."""
    old = copy.deepcopy(net)
    F.cross_entropy(net(images, mode='tensor'), labels).backward()
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim > 1:
                g = weight.grad
                weight += GAMMA * weight.norm() / g.norm() * g
    net.load_state_dict(dict(old.named_buffers()), strict=False)
    net.zero_grad()
    F.cross_entropy(net(images, mode='tensor'), labels).backward()
    gradients = [weight.grad for weight in net.parameters()]
    pairs = zip(old.parameters(), gradients)
    stepped = [weight.detach() - RATE * gradient for weight, gradient in pairs]
    return stepped, gradients


def _with_known_images(model: Any, batch: dict) -> tuple[Tensor, Tensor]:
    """Replace the attack by one whose images are known."""
    images = batch['inputs'].float() / 255
    noise = 8 / 255 * (torch.rand_like(images) - 0.5)
    adversarial = (images + noise).clamp(0, 1)
    model.train_attack = lambda *args, **kwargs: adversarial
    return adversarial, tiny.labels_of(batch['data_samples'])


def test_step_equals_the_hand_computation() -> None:
    torch.manual_seed(1)
    model, batch = _model(), tiny.raw_batch()
    adversarial, labels = _with_known_images(model, batch)
    stock = tiny.build_stock().train()
    stock.load_state_dict(model.state_dict())
    expected, gradients = _by_hand(stock, _inputs(adversarial), labels)
    seen: list[Tensor] = []
    wrapper = _wrapper(model)
    step = wrapper.optimizer.step

    def record() -> None:
        seen.extend(p.grad.clone() for p in model.parameters())
        step()

    wrapper.optimizer.step = record
    model.train_step(batch, wrapper)
    close = torch.testing.assert_close
    close(seen, gradients, atol=2e-5, rtol=1e-3)
    close(_weights(model), expected, atol=2e-6, rtol=1e-4)
    # An iteration updates the statistics of batch norm once.
    assert model.backbone.norm1.num_batches_tracked == 1
    plain = _model()
    plain.train_attack = model.train_attack
    plain.train_step(batch, _plain(plain))
    pairs = zip(model.parameters(), plain.parameters())
    same = all(torch.allclose(*pair, atol=1e-5) for pair in pairs)
    assert not same, 'the perturbation changed nothing'


def test_weights_come_back_on_an_exception() -> None:
    model = _model()
    before, wrapper = _weights(model), _wrapper(model)

    def fail(loss: Tensor) -> None:
        assert _differ(model, before)
        raise KeyboardInterrupt

    wrapper.backward = fail
    with pytest.raises(KeyboardInterrupt):
        model.train_step(tiny.raw_batch(), wrapper)
    assert not _differ(model, before)
    assert model.loss_replay is None


def test_gamma_zero_is_the_plain_step() -> None:
    torch.manual_seed(0)
    one, other = _model(), _model()
    batch = tiny.raw_batch()
    _with_known_images(one, batch)
    other.train_attack = one.train_attack
    one.train_step(batch, _wrapper(one, gamma=0.0))
    other.train_step(batch, _plain(other))
    torch.testing.assert_close(_weights(one), _weights(other))


def test_warmup_and_accumulation() -> None:
    model, batch = _model(), tiny.raw_batch()
    wrapper = _wrapper(model, warmup_iters=1, accumulative_counts=2)
    before = _weights(model)
    passes = model.method.loss = Mock(wraps=model.method.loss)
    model.train_step(batch, wrapper)
    # Neither perturbed nor stepped yet.
    assert passes.call_count == 1 and not _differ(model, before)
    model.train_step(batch, wrapper)
    assert passes.call_count == 3 and _differ(model, before)


def test_other_models_are_refused() -> None:
    model = tiny.build_stock()
    with pytest.raises(TypeError, match=r'needs an m2at_mm\.Adversarial'):
        model.train_step(tiny.raw_batch(), _wrapper(model))


def test_weight_without_gradient_is_not_moved() -> None:
    model, batch = _model(classifier=tiny.classifier_cfg()), tiny.raw_batch()
    model.train_step(batch, _wrapper(model))
    assert all(p.isfinite().all() for p in model.parameters())


METHODS = ['PGDAT', 'M2AT', 'TRADES', 'MART', 'AVmixup', 'IAT', 'Standard']


def _of(method: str) -> Any:
    return build_adversarial(method=dict(type=f'm2at_mm.{method}')).train()


@pytest.mark.parametrize('method', METHODS)
def test_repetition_is_the_same_loss(method: str) -> None:
    model = _of(method)
    attack = model.train_attack = Mock(wraps=model.train_attack)
    data = model.data_preprocessor(raw_batch(), training=True)
    with LossReplay(model) as replay:
        first = model(**data, mode='loss')
        drawn = torch.rand(1)
        buffers = {k: v.clone() for k, v in model.named_buffers()}
        second = replay.repeat()
        assert torch.equal(torch.rand(1), drawn)  # the stream goes on as once
    assert attack.call_count == (0 if method == 'Standard' else 1)
    exact = dict(rtol=0, atol=0)
    torch.testing.assert_close(second, first, **exact)
    found = dict(model.named_buffers())
    torch.testing.assert_close(found, buffers, **exact)
    assert model.loss_replay is None


def test_repetition_follows_the_weights() -> None:
    model = _of('M2AT')
    data = model.data_preprocessor(raw_batch(), training=True)
    with LossReplay(model) as replay:
        first = model(**data, mode='loss')['loss']
        with torch.no_grad():
            model.head.fc.weight.mul_(2)
        assert replay.repeat()['loss'] != first


def test_nothing_to_repeat() -> None:
    with pytest.raises(RuntimeError, match='no loss was recorded'):
        LossReplay(_of('PGDAT')).repeat()
