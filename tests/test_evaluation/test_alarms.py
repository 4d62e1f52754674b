from typing import Any

import numpy as np
import pytest
from evaluation_support import nested_outcome as outcome

from m2at_mm.attacks import ThreatModel
from m2at_mm.evaluation import Alarm, Outcomes, find_alarms


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
        (dict(pgd20=42, **{'apgd-ce': 36}), 'more_steps_help'),
        (dict(pgd20=42, **{'apgd-ce': 38}), None),
        (dict(cw20=42, autoattack=36), 'more_steps_help'),
        (dict(cw20=42, malt=36), 'more_steps_help'),
        (dict(cw20=42, **{'apgd-t': 38}), None),
        (dict(fgsm=40, pgd20=43), 'one_step_beats_many'),
        (dict(fgsm=50, pgd20=43), None),
        (dict(pgd20=50, square=44), 'black_box_beats_white_box'),
        (dict(pgd20=50, square=47), None),
        (dict(cw20=50, square=47), 'black_box_beats_white_box'),
        (dict(cw20=50, transfer=47), 'black_box_beats_white_box'),
        (dict(cw20=50, square=49.5), None),
        (dict(pgd20=50, square=55), None),
        # Of few images that are left, some.
        (dict(pgd20=0.9, cw20=0.7, square=0.2), 'black_box_beats_white_box'),
        (dict(pgd20=0.9, cw20=0.7, square=0.4), None),
        (dict(fgsm=50, square=40), None),
        (dict(pgd20=50, cw20=46, square=47), None),
        ({}, None),
    ],
    ids=str,
)
def test_comparison_of_attacks(accuracies: dict, expected: str) -> None:
    found = names(outcome(clean=80, **accuracies))
    assert found == ([expected] if expected else [])


@pytest.mark.parametrize(
    ('last', 'expected'), [(40, ['black_box_beats_white_box']), (45, [])]
)
def test_black_box_inside_autoattack(last: float, expected: list) -> None:
    made = outcome(clean=80, autoattack=40)
    parts = {'apgd-ce': 47, 'fab-t': 45, 'square': last}
    made.parts['autoattack'] = outcome(**parts).predictions
    assert names(made) == expected


@pytest.mark.parametrize(
    ('attack', 'left', 'expected'),
    [
        ('cw20', 49.5, []),
        ('cw20', 48, ['black_box_beats_white_box']),
        ('pgd20', 48, []),
        ('pgd20', 44, ['black_box_beats_white_box']),
        # A single step is not expected to find everything.
        ('fgsm', 40, []),
    ],
)
def test_second_opinion(attack: str, left: float, expected: list) -> None:
    made = outcome(clean=80, **{attack: 50})
    made.second_opinion = outcome(all=left).predictions['all']
    found = find_alarms([made], {})
    assert [alarm.name for alarm in found] == expected
    assert all('the second opinion, which' in one.message for one in found)


def test_second_opinion_takes_no_credit_for_other_attacks() -> None:
    made = outcome(clean=80, cw20=50, fgsm=40)
    # It fools none of the 400 images that it is asked about.
    made.second_opinion = made.predictions['clean']
    assert names(made) == ['one_step_beats_many']


@pytest.mark.parametrize(('stuck', 'raised'), [(20, False), (30, True)])
def test_attacks_that_make_no_progress(stuck: int, raised: bool) -> None:
    made = outcome(clean=80, pgd20=50)
    made.stuck['pgd20'] = stuck
    assert names(made) == ['attack_makes_no_progress'] * raised


@pytest.mark.parametrize(('fewer', 'raised'), [(79, False), (80, True)])
def test_attacks_that_disagree(fewer: int, raised: bool) -> None:
    made = outcome(clean=80, pgd20=50, cw20=50)
    # The last images that withstand one attack fall under the other.
    predicted = made.predictions['cw20'][:800]
    moved = np.roll(predicted, fewer)
    predicted[:] = np.where(moved == 10, 10, made.labels[:800])
    assert names(made) == ['attacks_disagree'] * raised


def test_chance_raises_nothing() -> None:
    """Of 20 images, two that differ are no evidence."""
    labels = np.zeros(20, dtype=int)
    fooled = np.where(np.arange(20) < 2, 1, 0)
    predictions = dict(clean=labels, pgd20=labels, cw20=fooled)
    assert names(Outcomes(ThreatModel(), labels, predictions)) == []


@pytest.mark.parametrize(
    ('attack', 'small', 'large', 'raised'),
    [
        ('pgd20', 50, 20, False),
        ('pgd20', 50, 49.5, True),
        ('pgd20', 20, 50, True),
        ('pgd20', 12, 12, False),  # near chance
        ('fgsm', 0, 30, False),  # one long step may overshoot
    ],
)
def test_radii(attack: str, small: float, large: float, raised: bool) -> None:
    given = (('16/255', large), ('8/255', small))
    made = (outcome(eps, clean=80, **{attack: left}) for eps, left in given)
    assert names(*made) == ['larger_eps_does_not_help'] * raised


@pytest.mark.parametrize(
    ('left', 'images', 'told'),
    [
        ((80, 80, 10), 1000, None),  # nothing to lose, until it falls
        ((80, 80, 80), 1000, '80.0 % at'),
        ((80, 80, 80), 50, None),  # a point is half an image
        ((30, 40, 60), 1000, '30.0 % at'),  # one line, of the largest rise
        ((30, 60, 20), 1000, '30.0 % at'),
    ],
)
def test_several_radii(left: tuple, images: int, told: str | None) -> None:
    made = [
        outcome(eps, clean=80, pgd20=value)
        for eps, value in zip(('2/255', '8/255', '16/255'), left)
    ]
    few = np.arange(0, 1000, 1000 // images)
    for one in made:
        one.labels = one.labels[few]  # type: ignore[misc]
        for name, predicted in one.predictions.items():
            one.predictions[name] = predicted[few]
    alarms = find_alarms(made, {})
    assert len(alarms) == (told is not None)
    assert all(str(told) in alarm.message for alarm in alarms)


def test_outside() -> None:
    made = outcome(clean=80, pgd20=50)
    made.outside['pgd20'] = 3
    [alarm] = find_alarms([made], {})
    assert alarm.name == 'outside_threat_model'
    assert '3 adversarial images of pgd20' in alarm.message


def test_alarm_gives_its_evidence() -> None:
    found = [outcome(clean=80, pgd20=57.5, cw20=40.5)]
    [alarm] = find_alarms(found, {})
    assert isinstance(alarm, Alarm)
    for evidence in ('40.5 %', '57.5 %', '17.0 points', '1000 images'):
        assert evidence in alarm.message
    # Of several radii it says which.
    found.append(outcome('4/255', clean=80, pgd20=60, cw20=59))
    [alarm] = find_alarms(found, {})
    assert alarm.message.endswith(str(ThreatModel('linf', '8/255')))


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
RANDOM, BATCH = dict(pass_difference=0.01), dict(batch_difference=0.01)


@pytest.mark.parametrize(
    ('figures', 'expected'),
    [
        ({}, None),
        (RANDOM, 'randomised_outputs'),
        (BATCH, 'outputs_depend_on_the_batch'),
        (dict(RANDOM, batch_difference=0.01), 'randomised_outputs'),
        (dict(probabilities=True), 'probabilities_for_logits'),
        (dict(vanishing_gradients=0.2), 'vanishing_gradients'),
        (dict(gradient_agreement=-1.0), 'wrong_gradients'),
        (dict(gradient_agreement=0.1), 'wrong_gradients'),
        (dict(gradient_agreement=1.2), None),
        (dict(RANDOM, gradient_agreement=9.0), 'randomised_outputs'),
        (dict(gradient_correlation=0.5), 'wrong_gradients'),
        (dict(non_finite_gradients=0.1), 'non_finite_gradients'),
        (dict(saturated_loss=0.5), None),
        (dict(saturated_loss=0.7), 'saturated_loss'),
        (dict(large_eps_correct=40), 'large_eps_withstood'),
        (dict(large_eps_correct=13), None),
        (dict(misled=0.02, misled_images=9), None),
        (dict(misled=0.05, misled_images=1), None),
        (dict(misled=0.05, misled_images=2), 'misleading_gradients'),
        (dict(realised_long=0.1), 'misleading_gradients'),
        (dict(RANDOM, misled=0.5, misled_images=9), 'randomised_outputs'),
        (dict(unchanged_outputs=0.01), None),
        (dict(unchanged_outputs=0.05), 'unchanged_outputs'),
        (dict(memory_difference=0.01), 'answers_depend_on_earlier_queries'),
        (dict(memory_gradient=0.05), 'answers_depend_on_earlier_queries'),
        (dict(drift=0.1), 'answers_depend_on_earlier_queries'),
        (dict(BATCH, drift=0.1), 'outputs_depend_on_the_batch'),
    ],
    ids=str,
)
def test_probes(figures: dict[str, Any], expected: str | None) -> None:
    found = names(**{**SOUND, **figures})
    assert found == ([expected] if expected else [])


@pytest.mark.parametrize(
    ('right', 'classes', 'raised'),
    [(90, None, 0), (90, 2, 0), (90, 10, 0), (45, 2, 1), (0, 10, 1)],
)
def test_chance_by_classes(right: int, classes: Any, raised: bool) -> None:
    """It is not that of the labels: all images are of one class."""
    labels = np.zeros(100, dtype=int)
    predicted = np.where(np.arange(100) < right, 0, 3)
    made = Outcomes(ThreatModel(), labels, dict(clean=predicted))
    made.num_classes = classes
    assert names(made) == ['clean_accuracy_at_chance'] * raised
