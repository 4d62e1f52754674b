from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import build_adversarial, raw_batch

from m2at_mm.benchmark import time_validation


def _model(**attacks: Any) -> Any:
    return build_adversarial(
        eval_attacks=attacks or dict(pgd=dict(type='m2at_mm.PGD', steps=2))
    )


def test_both_ways_find_the_same_accuracy() -> None:
    model = _model().eval()
    batches = []
    for seed in range(2):
        batch = model.data_preprocessor(raw_batch(num=8, seed=seed))
        with torch.no_grad():  # half of the images are right when clean
            labels = model(batch['inputs']).argmax(1)
        labels[::2] = (labels[::2] + 1) % 10
        batches.append((batch['inputs'], labels))
    found = time_validation(model, batches, rounds=2)
    assert found['accuracy']['m2at_mm'][0] == 50
    assert found['accuracy']['plain'][0] == 50
    # The starts are drawn anew.
    ours, plain = (found['accuracy'][n][1] for n in ('m2at_mm', 'plain'))
    assert 0 <= ours < 50 and abs(ours - plain) <= 12.5
    for name in ('m2at_mm', 'plain'):
        assert [len(block) for block in found['times'][name]] == [1, 1]
        assert min(found['times'][name])[0] > 0


def test_two_attacks_are_refused() -> None:
    model = _model(one=dict(type='m2at_mm.PGD'), two=dict(type='m2at_mm.PGD'))
    with pytest.raises(ValueError, match=r"eval_attacks=\['one', 'two'\]"):
        time_validation(model, [], 1)
