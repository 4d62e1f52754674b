from __future__ import annotations

from pathlib import Path

import pytest
import torch

from m2at_mm.coverage import try_config
from m2at_mm.coverage.attempt import _Check
from m2at_mm.methods import M2AT

RESNET = 'resnet/resnet18_8xb32_in1k.py'


def test_a_config_that_works(cifar10_root: Path) -> None:
    outcome = try_config(RESNET, 'm2at', cifar10_root)
    assert (outcome.status, outcome.note) == ('works', '')
    assert (outcome.family, outcome.model) == ('resnet', 'ImageClassifier')
    assert (outcome.size, outcome.parameters) == (64, 11_689_512)
    assert outcome.seconds > 0 and outcome.memory > 0.1


@pytest.mark.parametrize(
    ('config', 'status', 'note'),
    [
        ('arcface/resnet50-arcface_8xb32_inshop.py', 'refused', 'retrieves'),
        (
            'levit/deploy/levit-128s_8xb256_in1k.py',
            'upstream',
            'switch_to_deploy',
        ),
        (
            'byol/benchmarks/mask-rcnn_r50_fpn_ms-1x_coco.py',
            'upstream',
            'cannot be loaded',
        ),
        (
            'replknet/replknet-31B_32xb64_in1k.py',
            'upstream',
            # Not where it is installed.
            'in mmpretrain/.mim/configs/replknet',
        ),
    ],
)
def test_configs_that_do_not(
    config: str, status: str, note: str, cifar10_root: Path
) -> None:
    outcome = try_config(config, 'm2at', cifar10_root)
    assert outcome.status == status and note in outcome.note


def test_what_only_the_recipe_breaks_fails(
    cifar10_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise IndexError('no such patch')

    monkeypatch.setattr(M2AT, 'loss', broken)
    outcome = try_config(RESNET, 'm2at', cifar10_root)
    assert outcome.status == 'fails'
    assert outcome.note.startswith('IndexError: no such patch (test_attempt')


def checked(losses: list[float], changed: bool = True) -> _Check:
    check = _Check()
    check.losses, check.changed = losses, changed
    return check


@pytest.mark.parametrize(
    ('check', 'message'),
    [
        (checked([1.0]), '1 iterations'),
        (checked([1.0, float('nan')]), 'nan'),
        (checked([1.0, 2.0], changed=False), 'no weight'),
    ],
)
def test_training_that_did_not_take_place(check: _Check, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        check.judge_training()


def test_validation_that_did_not_take_place() -> None:
    check = checked([1.0, 1.0])
    with pytest.raises(RuntimeError, match='no validation'):
        check.judge_validation(adversarial=True)
    check.metrics = {'accuracy/top1': 10.0}
    check.judge_validation(adversarial=False)
    with pytest.raises(RuntimeError, match='accuracy/top1'):
        check.judge_validation(adversarial=True)
    check.metrics['robust/worst'] = 0.0
    check.judge_validation(adversarial=True)
    assert torch.is_grad_enabled()
