from __future__ import annotations

from pathlib import Path

import pytest

from config_coverage.attempt import _Check, try_config
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
        ('arcface/resnet50-arcface_8xb32_inshop', 'refused', 'retrieves'),
        ('levit/deploy/levit-128s_8xb256_in1k', 'upstream', 'switch_to_dep'),
        (
            'byol/benchmarks/mask-rcnn_r50_fpn_ms-1x_coco',
            'upstream',
            'cannot be loaded',
        ),
        (
            'replknet/replknet-31B_32xb64_in1k',
            'upstream',
            # Not where it is installed.
            'in mmpretrain/.mim/configs/replknet',
        ),
    ],
)
def test_configs_that_do_not(
    config: str, status: str, note: str, cifar10_root: Path
) -> None:
    outcome = try_config(f'{config}.py', 'm2at', cifar10_root)
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


TOP1, WORST = {'accuracy/top1': 10.0}, {'robust/worst': 0.0}


@pytest.mark.parametrize(
    ('losses', 'changed', 'metrics', 'adversarial', 'problem'),
    [
        ([1.0], True, WORST, True, '1 iterations'),
        ([1.0, float('nan')], True, WORST, True, 'nan'),
        ([1.0, 2.0], False, WORST, True, 'no weight'),
        ([1.0, 1.0], True, None, False, 'no validation'),
        ([1.0, 1.0], True, TOP1, True, 'accuracy/top1'),
        ([1.0, 1.0], True, TOP1, False, None),
        ([1.0, 1.0], True, WORST, True, None),
    ],
)
def test_what_did_not_take_place(
    losses: list[float],
    changed: bool,
    metrics: dict[str, float] | None,
    adversarial: bool,
    problem: str | None,
) -> None:
    check = _Check()
    check.losses, check.changed, check.metrics = losses, changed, metrics
    found = check.problem(validates=True, adversarial=adversarial)
    assert (found is None) if problem is None else problem in str(found)
