from typing import Any
from unittest.mock import Mock

import pytest
import torch
from tiny import build_adversarial, raw_batch

from m2at_mm.optim import LossReplay

METHODS = ['PGDAT', 'M2AT', 'TRADES', 'MART', 'AVmixup', 'IAT', 'Standard']


def _model(method: str) -> Any:
    return build_adversarial(method=dict(type=f'm2at_mm.{method}')).train()


@pytest.mark.parametrize('method', METHODS)
def test_repetition_is_the_same_loss(method: str) -> None:
    model = _model(method)
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
    model = _model('M2AT')
    data = model.data_preprocessor(raw_batch(), training=True)
    with LossReplay(model) as replay:
        first = model(**data, mode='loss')['loss']
        with torch.no_grad():
            model.head.fc.weight.mul_(2)
        assert replay.repeat()['loss'] != first


def test_nothing_to_repeat() -> None:
    with pytest.raises(RuntimeError, match='no loss was recorded'):
        LossReplay(_model('PGDAT')).repeat()
