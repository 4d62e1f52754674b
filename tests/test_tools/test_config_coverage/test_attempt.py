from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config_coverage.attempt import _Check, try_config
from m2at_mm.methods import M2AT


@pytest.mark.parametrize(
    ('config', 'note'),
    [
        ('levit/deploy/levit-128s_8xb256_in1k', 'switch_to_dep'),
        ('byol/benchmarks/mask-rcnn_r50-c4_ms-1x_coco', 'loaded'),
        # Not where it is installed.
        ('replknet/replknet-31B_32xb64_in1k', 'in mmpretrain/.'),
    ],
)
def test_configs_on_which_mmpretrain_fails(
    config: str, note: str, cifar10_root: Path
) -> None:
    outcome = try_config(f'{config}.py', 'm2at', cifar10_root)
    assert outcome.status == 'upstream' and note in outcome.note


def test_what_only_the_recipe_breaks_fails(
    cifar10_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise IndexError('no such patch')

    monkeypatch.setattr(M2AT, 'loss', broken)
    config = 'resnet/resnet18_8xb16_cifar10.py'
    outcome = try_config(config, 'm2at', cifar10_root)
    assert outcome.status == 'fails'
    assert outcome.note.startswith('IndexError: no such patch (test_attempt')


@pytest.mark.parametrize(
    ('changed', 'adversarial', 'problem'),
    [
        (dict(losses=[1.0]), True, '1 iterations were made'),
        (dict(losses=[1.0, float('nan')]), True, 'nan'),
        (dict(changed=False), True, 'no weight was changed'),
        (dict(metrics=None), True, 'there was no validation'),
        (dict(metrics={'top1': 0.0}), True, 'top1'),
        (dict(metrics={'top1': 0.0}), False, 'None'),
        ({}, True, 'None'),
    ],
)
def test_what_did_not_take_place(
    changed: dict[str, Any], adversarial: bool, problem: str
) -> None:
    check = _Check()
    check.losses, check.metrics = [1.0, 1.0], {'robust/worst': 0.0}
    check.changed = True
    vars(check).update(changed)
    assert problem in str(check.problem(True, adversarial))
