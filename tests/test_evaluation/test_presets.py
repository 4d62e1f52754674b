from __future__ import annotations

import pytest
from mmengine.registry import TASK_UTILS, DefaultScope

from m2at_mm.attacks import FGSM, PGD
from m2at_mm.evaluation.presets import ATTACK_NAMES, preset_attacks

# Steps, loss and random start, as the names say.
SETTINGS = {
    'fgsm': (FGSM, 1, 'ce', False),
    'pgd20': (PGD, 20, 'ce', True),
    'cw20': (PGD, 20, 'margin', True),
}


def test_names() -> None:
    assert ATTACK_NAMES == ('clean', *SETTINGS)


@pytest.mark.parametrize('name', SETTINGS)
def test_attack_is_what_its_name_says(name: str) -> None:
    [(given, config)] = preset_attacks([name]).items()
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        attack = TASK_UTILS.build(config)

    assert given == name
    found = (type(attack), attack.steps, attack.loss, attack.random_start)
    assert found == SETTINGS[name]
    # A quarter of the radius, or all of it, whatever the radius is.
    assert attack.step_size is None
    assert attack.restarts == 1 and attack.bn_mode == 'eval'


@pytest.mark.parametrize(
    'names', [[], ['clean'], ['clean', 'cw20'], ['pgd20', 'fgsm']], ids=str
)
def test_clean_is_no_attack(names: list[str]) -> None:
    attacks = preset_attacks(names)

    assert list(attacks) == [name for name in names if name != 'clean']


def test_presets_are_copies() -> None:
    preset_attacks(['pgd20'])['pgd20']['steps'] = 1

    assert preset_attacks(['pgd20'])['pgd20']['steps'] == 20


def test_unknown_name() -> None:
    with pytest.raises(
        ValueError, match=r"\['pgd7', 'apgd'\] are unknown.*'clean', 'fgsm'"
    ):
        preset_attacks(['pgd20', 'pgd7', 'apgd'])
