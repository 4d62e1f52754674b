from __future__ import annotations

from pathlib import Path

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


def problem(
    losses: tuple[float, ...] = (1.0, 1.0),
    changed: bool = True,
    figure: str = 'robust/worst',
    adversarial: bool = True,
) -> str:
    check = _Check()
    check.losses, check.changed = list(losses), changed
    check.metrics = {figure: 0.0} if figure else None
    return str(check.problem(True, adversarial))


def test_what_did_not_take_place() -> None:
    assert problem((1.0,)) == '1 iterations were made'
    assert 'nan' in problem((1.0, float('nan')))
    assert problem(changed=False) == 'no weight was changed'
    assert problem(figure='') == 'there was no validation'
    assert 'top1' in problem(figure='top1')
    assert problem(figure='top1', adversarial=False) == 'None'
    assert problem() == 'None'
