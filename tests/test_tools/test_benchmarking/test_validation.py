from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import build_adversarial, raw_batch

from benchmarking.validation import time_validation

PGD = dict(type='m2at_mm.PGD', steps=2)


def test_both_ways_find_the_same_accuracy() -> None:
    model: Any = build_adversarial(eval_attacks=dict(pgd=PGD)).eval()
    batches = []
    for seed in range(2):
        batch = model.data_preprocessor(raw_batch(num=8, seed=seed))
        with torch.no_grad():  # half of the images are right when clean
            labels = model(batch['inputs']).argmax(1)
        labels[::2] = (labels[::2] + 1) % 10
        batches.append((batch['inputs'], labels))
    found = time_validation(model, batches, rounds=2)
    assert [*found['accuracy']] == [*found['times']] == ['m2at_mm', 'plain']
    (clean, ours), (plain_clean, plain) = found['accuracy'].values()
    assert clean == plain_clean == 50
    # The starts are drawn anew.
    assert 0 <= ours < 50 and abs(ours - plain) <= 12.5
    for rounds in found['times'].values():
        assert [len(block) for block in rounds] == [1, 1]
        assert min(rounds)[0] > 0


def test_two_attacks_are_refused() -> None:
    model = build_adversarial(eval_attacks=dict(one=PGD, two=PGD))
    with pytest.raises(ValueError, match=r"eval_attacks=\['one', 'two'\]"):
        time_validation(model, [], 1)
