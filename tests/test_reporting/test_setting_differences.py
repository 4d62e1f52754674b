from __future__ import annotations

from m2at_mm.reporting.setting_differences import compare_settings


def test_differing_common_and_missing_settings() -> None:
    first = dict(
        model=dict(method=dict(type='M2AT', scale=1.5), _scope_='a'),
        hooks=[dict(type='A'), dict(type='B')],
        milestones=[8, 11],
        work_dir='one',
        empty={},
    )
    second = dict(
        model=dict(method=dict(type='PGDAT')),
        hooks=[dict(type='A'), dict(type='C')],
        milestones=[8, 11],
        work_dir='two',
        empty={},
    )
    different, common = compare_settings([first, second])
    assert different == {
        'model.method.type': ('M2AT', 'PGDAT'),
        'model.method.scale': ('1.5', None),
        'hooks.1.type': ('B', 'C'),
    }
    assert common == {
        'hooks.0.type': 'A',
        'milestones': '[8, 11]',
        'empty': '{}',
    }


def test_one_run_has_common_settings_alone() -> None:
    different, common = compare_settings([dict(a=1, b=dict(c=None))])
    assert different == {} and common == {'a': '1', 'b.c': 'None'}
