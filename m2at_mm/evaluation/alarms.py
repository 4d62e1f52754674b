"""Signs that a robust accuracy is overestimated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from m2at_mm.evaluation.named_attacks import NAMED_ATTACKS
from m2at_mm.evaluation.outcomes import Outcomes, percent

# Points by which the margin loss may be below the cross-entropy: undefended
# and PGD-trained networks stay within 5, networks that only fool the
# cross-entropy are off by 10 to 30.
_MARGIN_GAP = 8.0
# Points that more steps, a black box, or one step may win over what should be
# the stronger attack.
_MORE_STEPS_GAP = 5.0
_BLACK_BOX_GAP = 1.0
_ONE_STEP_GAP = 1.0
# Largest change of logits that rounding explains, relative to their length:
# as in AutoAttack's check for random models.
_SAME_OUTPUT = 1e-4
# Shares of images.
_VANISHING = 0.1
_SATURATED = 0.6
_NON_FINITE = 0.02
# Ratio of the slope along the gradient to the gradient, and correlation of
# the two in random directions.
_AGREEMENT = (0.5, 2.0)
_CORRELATION = 0.7
# Points that a black box may win where no attack used the margin.
_BLACK_BOX_OVER_CE = 5.0
_SINGLE_STEP = [n for n, one in NAMED_ATTACKS.items() if one.single_step]
_MANY_STEPS = [n for n, one in NAMED_ATTACKS.items() if 'steps' in one.config]
_BLACK_BOX = [n for n, one in NAMED_ATTACKS.items() if one.black_box]
# Attacks on the cross-entropy, and on differences of logits.
_ON_CROSS_ENTROPY = [
    name
    for name, one in NAMED_ATTACKS.items()
    if one.loss == 'ce' and not one.single_step
]
_ON_MARGIN = [n for n, one in NAMED_ATTACKS.items() if one.loss == 'margin']
# Points above chance that may withstand the large radius.
_NEAR_CHANCE = 10.0
# Images from which on chance can be told from a bad model.
_FEW = 50
# Points that accuracy should fall by when the radius doubles, from a radius
# on that matters to an image of any size.
_FLAT = 1.0
_NOTICEABLE = {'linf': 2 / 255, 'l2': 0.25}


@dataclass(frozen=True)
class Alarm:
    """A sign of gradient masking, with its evidence in numbers.

    Attributes:
        name (str): Of the sign, like ``'clean_accuracy_at_chance'``.
        message (str): What was found, and what it means.
    """

    name: str
    message: str


def find_alarms(
    outcomes: Sequence[Outcomes], probes: dict[str, Any]
) -> list[Alarm]:
    """What should not be, were the attacks good.

    The signs are those of arXiv 1802.00420 (section 3.1) and arXiv 1902.06705
    (section 4). A comparison of two attacks counts the images that only one
    of them fools, and asks for a difference of two standard deviations
    (McNemar's test).

    Args:
        outcomes (Sequence[Outcomes]): One per radius.
        probes (dict): Of :func:`m2at_mm.evaluation.probes.probe`; empty if
            nothing was probed.

    Returns:
        list[Alarm]: Empty if nothing is suspicious.
    """
    alarms = _judge_probes(probes) if probes else []
    if outcomes:
        alarms += _judge_clean(outcomes[0])
    for outcome in outcomes:
        at = f' at {outcome.threat_model}' if len(outcomes) > 1 else ''
        for name, message in (
            *_compare_losses(outcome),
            *_compare_steps(outcome),
            *_compare_black_box(outcome),
            *_find_outside(outcome),
        ):
            alarms.append(Alarm(name, message + at))
    return alarms + _compare_radii(outcomes)


Sign = tuple[str, str]


def _judge_probes(probes: dict[str, Any]) -> list[Alarm]:
    n, k = probes['num_images'], probes['num_classes']
    vanishing = probes['vanishing_gradients']
    saturated = probes['saturated_loss']
    agreement = probes.get('gradient_agreement', 1.0)
    correlation = probes.get('gradient_correlation', 1.0)
    broken = probes['non_finite_gradients']
    wrong = (
        not _AGREEMENT[0] <= agreement <= _AGREEMENT[1]
        or correlation < _CORRELATION
    )
    withstood = 100 * probes['large_eps_correct'] / n
    signs: list[tuple[bool, str, str]] = [
        (
            probes['pass_difference'] > _SAME_OUTPUT,
            'randomised_outputs',
            'two forward passes on the same images differ by '
            f'{probes["pass_difference"]:.2g} of the logits: attack a '
            'randomised model by its average gradient (autoattack-rand)',
        ),
        (
            probes['batch_difference']
            > _SAME_OUTPUT
            >= probes['pass_difference'],
            'outputs_depend_on_the_batch',
            'the logits of an image change by '
            f'{probes["batch_difference"]:.2g} with the other images of its '
            'batch: is a normalisation layer in training mode?',
        ),
        (
            probes['probabilities'],
            'probabilities_for_logits',
            'the outputs are probabilities, and losses on logits saturate on '
            'them: let the model return logits',
        ),
        (
            vanishing >= _VANISHING,
            'vanishing_gradients',
            f'on {100 * vanishing:.0f} % of {n} images the gradient is zero '
            'or too small by a factor of 1000 to reach a decision boundary: '
            'attacks that follow it fail, and accuracy under them means '
            'nothing',
        ),
        (
            broken >= _NON_FINITE,
            'non_finite_gradients',
            f'on {100 * broken:.0f} % of {n} images the gradient is infinite '
            'or not a number; it was taken as zero, and attacks that follow '
            'it fail',
        ),
        (
            wrong and probes['pass_difference'] <= _SAME_OUTPUT,
            'wrong_gradients',
            'along the gradient the margin really changes by '
            f'{agreement:.2g} times what the gradient says (median of {n} '
            'images), and in random directions the two correlate by '
            f'{correlation:.2g}: it is not, or not the whole, gradient of '
            'this model',
        ),
        (
            saturated >= _SATURATED,
            'saturated_loss',
            f'on {100 * saturated:.0f} % of {n} images the logits are so '
            f'large (median margin {probes["median_margin"]:.3g}) that the '
            'cross-entropy is exactly 0 in float32: it loses part of its '
            'gradient, then all; only attacks on the margin (cw20, apgd-t) '
            'count',
        ),
        (
            withstood > 100 / k + _NEAR_CHANCE,
            'large_eps_withstood',
            f'{withstood:.1f} % of {n} images withstand PGD-20 at a radius '
            f'of {255 * probes["large_eps"]:.4g}/255, where nothing can '
            f'(chance is {100 / k:.1f} %): the attack fails',
        ),
    ]
    return [Alarm(name, message) for raised, name, message in signs if raised]


def _judge_clean(outcome: Outcomes) -> list[Alarm]:
    correct = outcome.correct('clean')
    chance = _chance(outcome)
    if len(correct) < _FEW or percent(correct) > chance:
        return []
    return [
        Alarm(
            'clean_accuracy_at_chance',
            f'clean accuracy is {percent(correct):.1f} % on {len(correct)} '
            f'images, no better than chance ({chance:.1f} %): the checkpoint, '
            'its preprocessing or the order of its classes does not belong '
            'to this config',
        )
    ]


def _gained(weaker: np.ndarray, stronger: np.ndarray) -> float | None:
    """Points by which ``stronger`` has fewer correct, None if by chance."""
    only_stronger = int((weaker & ~stronger).sum())
    only_weaker = int((stronger & ~weaker).sum())
    difference = only_stronger - only_weaker
    if difference <= 2 * math.sqrt(only_stronger + only_weaker):
        return None
    return 100 * difference / len(weaker)


def _compare_losses(outcome: Outcomes) -> list[Sign]:
    """The best attack on the cross-entropy against the best on the margin."""
    on_ce = {
        name: outcome.correct(name)
        for name in _ON_CROSS_ENTROPY
        if name in outcome.predictions
    }
    parts = outcome.parts.get('autoattack', {})
    if 'apgd-ce' in parts:
        on_ce['apgd-ce'] = parts['apgd-ce'] == outcome.labels
    on_margin = {
        name: outcome.correct(name)
        for name in _ON_MARGIN
        if name in outcome.predictions
    }
    if not on_ce or not on_margin:
        return []
    ce = min(on_ce, key=lambda name: percent(on_ce[name]))
    margin = min(on_margin, key=lambda name: percent(on_margin[name]))
    gained = _gained(on_ce[ce], on_margin[margin])
    if gained is None or gained < _MARGIN_GAP:
        return []
    return [
        (
            'margin_below_cross_entropy',
            f'accuracy is {percent(on_margin[margin]):.1f} % under {margin} '
            f'but {percent(on_ce[ce]):.1f} % under {ce}, the best attack on '
            f'the cross-entropy, {gained:.1f} points apart on '
            f'{len(outcome.labels)} images: the cross-entropy attack fails, '
            'its figure means nothing',
        )
    ]


def _compare_steps(outcome: Outcomes) -> list[Sign]:
    signs = []
    run = [name for name in _MANY_STEPS if name in outcome.predictions]
    for few, many in combinations(run, 2):
        if NAMED_ATTACKS[few].loss == NAMED_ATTACKS[many].loss:
            gained = _gained(outcome.correct(few), outcome.correct(many))
            if gained is not None and gained >= _MORE_STEPS_GAP:
                signs.append(
                    (
                        'more_steps_help',
                        f'{many} is {gained:.1f} points below {few} '
                        f'({percent(outcome.correct(many)):.1f} % against '
                        f'{percent(outcome.correct(few)):.1f} %): the attacks '
                        'have not converged, more steps and restarts would '
                        'find more',
                    )
                )
    for many in run:
        for one in set(_SINGLE_STEP) & set(outcome.predictions):
            gained = _gained(outcome.correct(many), outcome.correct(one))
            if gained is not None and gained >= _ONE_STEP_GAP:
                signs.append(
                    (
                        'one_step_beats_many',
                        f'{one} is {gained:.1f} points below {many}: '
                        'following the gradient in small steps leads astray',
                    )
                )
    return signs


def _compare_black_box(outcome: Outcomes) -> list[Sign]:
    """Images that only an attack without gradients fools."""
    signs = []
    white = [
        name
        for name in outcome.attacks
        if name not in (*_BLACK_BOX, *_SINGLE_STEP, 'autoattack')
    ]
    gradient = [outcome.correct(name) for name in white]
    parts = dict(outcome.parts.get('autoattack', {}))
    square_last = parts.pop('square', None)
    if parts:
        gradient.append([*parts.values()][-1] == outcome.labels)
    if not gradient:
        return []
    withstood = np.logical_and.reduce(gradient)
    black = {
        name: outcome.correct(name)
        for name in _BLACK_BOX
        if name in outcome.predictions
    }
    if square_last is not None:
        black.setdefault('square', square_last == outcome.labels)
    on_margin = parts or set(white) & set(_ON_MARGIN)
    threshold = _BLACK_BOX_GAP if on_margin else _BLACK_BOX_OVER_CE
    for name, correct in black.items():
        gained = _gained(withstood, withstood & correct)
        if gained is not None and gained >= threshold:
            signs.append(
                (
                    'black_box_beats_white_box',
                    f'{name}, which uses no gradient of the model, fools '
                    f'{gained:.1f} % of all images where every gradient '
                    f'attack ({", ".join(white) or "of autoattack"}) fails: '
                    'the gradients mislead',
                )
            )
    return signs


def _find_outside(outcome: Outcomes) -> list[Sign]:
    return [
        (
            'outside_threat_model',
            f'{count} adversarial images of {name} are outside ball or box: '
            'the attack does more than the threat model allows',
        )
        for name, count in outcome.outside.items()
        if count
    ]


def _compare_radii(outcomes: Sequence[Outcomes]) -> list[Alarm]:
    alarms = []
    ordered = sorted(outcomes, key=lambda outcome: outcome.threat_model.eps)
    for small, large in combinations(ordered, 2):
        for name in small.attacks:
            if name in _SINGLE_STEP:  # one long step may overshoot
                continue
            at_small, at_large = small.correct(name), large.correct(name)
            if percent(at_large) <= _chance(large) + _NEAR_CHANCE:
                continue
            figures = (
                f'{percent(at_small):.1f} % at {small.threat_model} and '
                f'{percent(at_large):.1f} % at {large.threat_model}'
            )
            rise = _gained(at_large, at_small)
            if rise is not None and rise >= _FLAT:
                message = f'accuracy under {name} rises with the radius: '
            elif (
                _is_twice(small, large)
                and percent(at_small) - percent(at_large) < _FLAT
            ):
                message = f'accuracy under {name} does not fall: '
            else:
                continue
            alarms.append(Alarm('larger_eps_does_not_help', message + figures))
    return alarms


def _is_twice(small: Outcomes, large: Outcomes) -> bool:
    """Whether the radius doubles, from one on that matters."""
    threat = small.threat_model
    return (
        large.threat_model.eps >= 2 * threat.eps
        and threat.eps >= _NOTICEABLE[threat.norm]
    )


def _chance(outcome: Outcomes) -> float:
    """Accuracy of guessing, in per cent; 0 where nobody knows the classes."""
    return 100 / outcome.num_classes if outcome.num_classes else 0.0
