from __future__ import annotations

import pytest

from m2at_mm.evaluation import Alarm, find_alarms

NAME = 'margin_below_cross_entropy'


@pytest.mark.parametrize(
    ('accuracies', 'alarms'),
    [
        (dict(clean=80, pgd20=50, cw20=30), 1),
        (dict(clean=80, pgd20=50, cw20=42), 1),
        (dict(clean=80, pgd20=50, cw20=42.5), 0),
        (dict(clean=80, pgd20=50, cw20=50), 0),
        (dict(clean=80, pgd20=30, cw20=50), 0),
        (dict(clean=80, pgd20=50), 0),
        (dict(clean=80, cw20=10), 0),
        (dict(clean=80, pgd20=50, cw10=10), 0),
        (dict(clean=80, fgsm=60), 0),
        (dict(clean=80), 0),
        ({}, 0),
        (dict(clean=80, pgd20=50, cw20=30, pgd10=55, cw10=40), 2),
        (dict(clean=80, pgd20=50, cw20=30, pgd10=55, cw10=50), 1),
    ],
    ids=[
        'wide-gap',
        'gap-of-8',
        'gap-below-8',
        'no-gap',
        'margin-weaker',
        'pgd-alone',
        'cw-alone',
        'other-step-count',
        'fgsm',
        'clean',
        'nothing',
        'two-pairs',
        'one-of-two-pairs',
    ],
)
def test_gap_between_the_losses(
    accuracies: dict[str, float], alarms: int
) -> None:
    found = find_alarms(accuracies, 1000)

    assert [alarm.name for alarm in found] == [NAME] * alarms


def test_alarm_gives_its_evidence() -> None:
    [alarm] = find_alarms(dict(clean=80.0, pgd20=57.5, cw20=40.5), 250)

    assert isinstance(alarm, Alarm)
    for evidence in ('40.5 %', '57.5 %', '17.0 points', '250 images'):
        assert evidence in alarm.message
