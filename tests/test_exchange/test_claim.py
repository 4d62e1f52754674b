from typing import Any

import pytest

from m2at_mm.exchange import make_claim


def _results(**changes: Any) -> dict[str, Any]:
    results = dict(
        clean=85.34,
        attacks=dict(pgd20=57.0, autoattack=53.416),
        num_samples=10000,
        threat_model=dict(norm='linf', eps=8 / 255),
        alarms=[dict(name='more_steps_help', message='...')],
    )
    return {**results, **changes}


def test_claim_has_robustbenchs_fields() -> None:
    about = dict(name='M2AT', architecture='ResNet-18')
    claim = make_claim(_results(), 'cifar10', **about)
    expected = dict(about, clean_acc='85.34', autoattack_acc='53.42', venue='')
    expected |= dict(eps='8/255', norm='Linf', num_samples=10000)
    assert claim.items() >= expected.items()
    assert claim['alarms'] == ['more_steps_help']
    # A radius in l2 is a number.
    threat = dict(norm='l2', eps=0.5)
    assert make_claim(_results(threat_model=threat), 'cifar10')['eps'] == '0.5'


@pytest.mark.parametrize(
    ('results', 'about', 'message'),
    [
        (_results(attacks=dict(pgd20=57.0)), {}, 'needs autoattack'),
        (_results(), dict(title='x'), "field='title' is unknown"),
    ],
    ids=['no-autoattack', 'unknown-field'],
)
def test_wrong_input(results: dict, about: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_claim(results, 'cifar10', **about)
