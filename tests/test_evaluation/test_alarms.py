from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from m2at_mm.attacks import ThreatModel
from m2at_mm.evaluation import Alarm, Outcomes, find_alarms

N = 1000


def outcome(eps: str = '8/255', **percents: float) -> Outcomes:
    """Nested outcomes: what a stronger attack leaves, a weaker one does."""
    labels = np.arange(N) % 10
    return Outcomes(
        ThreatModel('linf', eps),
        labels,
        {
            name: np.where(np.arange(N) < 10 * share, labels, 10)
            for name, share in percents.items()
        },
        num_classes=10,
    )


def names(*outcomes: Outcomes, **probes: Any) -> list[str]:
    return [alarm.name for alarm in find_alarms(outcomes, probes)]


@pytest.mark.parametrize(
    ('accuracies', 'expected'),
    [
        (dict(pgd20=50, cw20=42), 'margin_below_cross_entropy'),
        (dict(pgd20=50, cw20=42.5), None),
        (dict(pgd20=30, cw20=50), None),
        (dict(pgd20=50, cw100=10), 'margin_below_cross_entropy'),
        (dict(pgd20=60, autoattack=36), 'margin_below_cross_entropy'),
        (dict(pgd20=60, pgd100=40, cw20=36), 'more_steps_help'),
        (dict(pgd20=50, pgd100=44), 'more_steps_help'),
        (dict(cw20=50, cw100=44), 'more_steps_help'),
        (dict(pgd20=50, pgd100=46), None),
        (dict(fgsm=40, pgd20=43), 'one_step_beats_many'),
        (dict(fgsm=50, pgd20=43), None),
        (dict(pgd20=50, square=44), 'black_box_beats_white_box'),
        (dict(pgd20=50, square=47), None),
        (dict(cw20=50, square=47), 'black_box_beats_white_box'),
        (dict(cw20=50, transfer=47), 'black_box_beats_white_box'),
        (dict(cw20=50, square=49.5), None),
        (dict(pgd20=50, square=55), None),
        (dict(fgsm=50, square=40), None),
        (dict(pgd20=50, cw20=46, square=47), None),
        ({}, None),
    ],
    ids=str,
)
def test_comparison_of_attacks(
    accuracies: dict[str, float], expected: str
) -> None:
    found = names(outcome(clean=80, **accuracies))
    assert found == ([expected] if expected else [])


def test_black_box_inside_autoattack() -> None:
    made = outcome(clean=80, autoattack=40)
    made.parts['autoattack'] = {
        'apgd-ce': outcome(x=47).predictions['x'],
        'fab-t': outcome(x=45).predictions['x'],
        'square': outcome(x=40).predictions['x'],
    }
    assert names(made) == ['black_box_beats_white_box']
    made.parts['autoattack']['square'] = outcome(x=45).predictions['x']
    assert names(made) == []


def test_chance_raises_nothing() -> None:
    """Of 20 images, two that differ are no evidence."""
    labels = np.zeros(20, dtype=int)
    fooled = labels.copy()
    fooled[:2] = 1
    made = Outcomes(
        ThreatModel(), labels, dict(clean=labels, pgd20=labels, cw20=fooled)
    )
    assert names(made) == []


@pytest.mark.parametrize(
    ('small', 'large', 'raised'),
    [(50, 20, False), (50, 49.5, True), (20, 50, True), (12, 12, False)],
)
def test_radii(small: float, large: float, raised: bool) -> None:
    found = names(
        outcome('16/255', clean=80, pgd20=large),
        outcome('8/255', clean=80, pgd20=small),
    )
    assert found == ['larger_eps_does_not_help'] * raised


def test_fgsm_may_overshoot() -> None:
    small = outcome('8/255', clean=80, fgsm=0)
    assert names(small, outcome('16/255', clean=80, fgsm=30)) == []


def test_clean_accuracy_at_chance() -> None:
    assert names(outcome(clean=0.0)) == ['clean_accuracy_at_chance']
    assert names(outcome(clean=20.0)) == []


def test_outside() -> None:
    made = outcome(clean=80, pgd20=50)
    made.outside['pgd20'] = 3
    [alarm] = find_alarms([made], {})
    assert alarm.name == 'outside_threat_model'
    assert '3 adversarial images of pgd20' in alarm.message


def test_alarm_gives_its_evidence() -> None:
    [alarm] = find_alarms([outcome(clean=80, pgd20=57.5, cw20=40.5)], {})

    assert isinstance(alarm, Alarm)
    for evidence in ('40.5 %', '57.5 %', '17.0 points', '1000 images'):
        assert evidence in alarm.message


SOUND: dict[str, Any] = dict(
    num_images=128,
    num_classes=10,
    pass_difference=0.0,
    batch_difference=1e-6,
    probabilities=False,
    non_finite_gradients=0.0,
    vanishing_gradients=0.0,
    saturated_loss=0.0,
    median_margin=3.0,
    large_eps=64 / 255,
    large_eps_correct=0,
)


@pytest.mark.parametrize(
    ('figures', 'expected'),
    [
        ({}, []),
        (dict(pass_difference=0.01), ['randomised_outputs']),
        (dict(batch_difference=0.01), ['outputs_depend_on_the_batch']),
        (
            dict(batch_difference=0.01, pass_difference=0.01),
            ['randomised_outputs'],
        ),
        (dict(probabilities=True), ['probabilities_for_logits']),
        (dict(vanishing_gradients=0.2), ['vanishing_gradients']),
        (dict(gradient_agreement=-1.0), ['wrong_gradients']),
        (dict(gradient_agreement=0.1), ['wrong_gradients']),
        (dict(gradient_agreement=1.2), []),
        (
            dict(gradient_agreement=9.0, pass_difference=0.01),
            ['randomised_outputs'],
        ),
        (dict(gradient_correlation=0.5), ['wrong_gradients']),
        (dict(non_finite_gradients=0.1), ['non_finite_gradients']),
        (dict(saturated_loss=0.5), []),
        (dict(saturated_loss=0.7), ['saturated_loss']),
        (dict(large_eps_correct=40), ['large_eps_withstood']),
        (dict(large_eps_correct=13), []),
    ],
    ids=str,
)
def test_probes(figures: dict[str, Any], expected: list[str]) -> None:
    assert names(**{**SOUND, **figures}) == expected


def test_chance_is_that_of_the_classes_not_of_the_labels() -> None:
    """All images of one class, 90 % of them right."""
    labels = np.zeros(100, dtype=int)
    predicted = labels.copy()
    predicted[:10] = 3
    made = Outcomes(ThreatModel(), labels, dict(clean=predicted))
    for classes in (None, 2, 10):
        made.num_classes = classes
        assert names(made) == []
    made.predictions['clean'] = np.where(np.arange(100) < 45, 0, 3)
    made.num_classes = 2
    assert names(made) == ['clean_accuracy_at_chance']
