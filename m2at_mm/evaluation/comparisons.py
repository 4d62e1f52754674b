"""Figures that compare the outcomes of attacks, for the alarms to judge."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np

from m2at_mm.evaluation.named_attacks import NAMED_ATTACKS, NamedAttack
from m2at_mm.evaluation.outcomes import Outcomes, percent

Figures = dict[str, Any]
Measure = Callable[[Sequence[Outcomes]], Iterator[Figures]]


def _named(condition: Callable[[NamedAttack], bool]) -> list[str]:
    return [name for name, one in NAMED_ATTACKS.items() if condition(one)]


_SINGLE_STEP = _named(lambda one: one.single_step)
_CLIMBING = _named(lambda one: one.climbs)
_BLACK_BOX = _named(lambda one: one.black_box)
_ON_CROSS_ENTROPY = _named(lambda o: o.loss == 'ce' and not o.single_step)
_ON_MARGIN = _named(lambda one: one.loss == 'margin')
# Points by which accuracy should fall when the radius doubles, from a radius
# on that matters to an image of any size.
_FLAT = 1.0
_NOTICEABLE = {'linf': 2 / 255, 'l2': 0.25}


def at_each_radius(
    compare: Callable[[Outcomes], Iterator[Figures]],
) -> Measure:
    """Compare at each radius, which is named ``at`` if there are several."""

    def measure(outcomes: Sequence[Outcomes]) -> Iterator[Figures]:
        for outcome in outcomes:
            at = f' at {outcome.threat_model}' if len(outcomes) > 1 else ''
            yield from (dict(one, at=at) for one in compare(outcome))

    return measure


def clean(outcomes: Sequence[Outcomes]) -> Iterator[Figures]:
    """Compare the clean accuracy with chance."""
    for outcome in outcomes[:1]:
        accuracy = percent(outcome.correct('clean'))
        total = len(outcome.labels)
        yield dict(accuracy=accuracy, total=total, chance=outcome.chance)


def _pairs(pairs: list[tuple[str, str]]) -> Measure:
    """Compare pairs of attacks, of which the first should be weaker."""

    def compare(outcome: Outcomes) -> Iterator[Figures]:
        left = _left_by_each(outcome)
        run = [pair for pair in pairs if left.keys() >= {*pair}]
        yield from (_compare(left, *pair) for pair in run)

    return at_each_radius(compare)


#: Compare PGD with more steps, or better chosen ones, on the same loss.
steps = _pairs(
    [
        (few, many)
        for few, many in combinations(NAMED_ATTACKS, 2)
        if few in _CLIMBING
        and NAMED_ATTACKS[few].loss == NAMED_ATTACKS[many].loss
    ]
)
#: Compare many steps with a single one.
single_step = _pairs([*product(_CLIMBING, _SINGLE_STEP)])


def _best(left: dict[str, np.ndarray], names: Iterable[str]) -> list[str]:
    """Of the names, the best attack on each of the two losses, if any."""
    known = [name for name in names if name in left]
    both = _ON_CROSS_ENTROPY, _ON_MARGIN
    run = [[name for name in known if name in one] for one in both]
    return [min(one, key=lambda n: left[n].sum()) for one in run if one]


@at_each_radius
def losses(outcome: Outcomes) -> Iterator[Figures]:
    """Compare the best attack on the cross-entropy with that on the margin."""
    left = _left_by_each(outcome)
    best = _best(left, NAMED_ATTACKS)
    if len(best) == 2:
        yield _compare(left, *best)


@at_each_radius
def black_box(outcome: Outcomes) -> Iterator[Figures]:
    """Count the images that only an attack without gradients fools."""
    left = _left_by_each(outcome)
    others = {*_BLACK_BOX, *_SINGLE_STEP, 'autoattack'}
    white = [name for name in left if name not in others]
    if not white:
        return
    if outcome.second_opinion is not None:
        # Not the worst case, which a single step or a black box had a part in.
        left['the second opinion'] = outcome.second_opinion == outcome.labels
    both = np.logical_and.reduce([left[one] for one in white])
    for name in (*_BLACK_BOX, 'the second opinion'):
        if name in left:
            gained = _gained(both, both & left[name])
            yield dict(
                attack=name,
                gained=gained,
                of_withstanding=gained * len(both) / max(1, both.sum()),
                on_margin=not set(white).isdisjoint(_ON_MARGIN),
                white=', '.join(white),
            )


@at_each_radius
def progress(outcome: Outcomes) -> Iterator[Figures]:
    """Count the images whose loss an attack does not raise."""
    for name, stuck in outcome.stuck.items():
        withstanding = int(outcome.correct(name).sum())
        yield dict(attack=name, stuck=stuck, withstanding=withstanding)


@at_each_radius
def disagreement(outcome: Outcomes) -> Iterator[Figures]:
    """Compare what attacks on the two losses fool that the other does not."""
    left = _left_by_each(outcome)
    best = _best(left, _CLIMBING)
    if len(best) == 2:
        one, other = (left[name] for name in best)
        fewer = min((one & ~other).sum(), (other & ~one).sum())
        names = dict(zip(('first', 'second'), best))
        yield dict(names, fewer=fewer, total=len(one))


@at_each_radius
def outside(outcome: Outcomes) -> Iterator[Figures]:
    """Count the adversarial images outside ball or box."""
    for name, count in outcome.outside.items():
        yield dict(attack=name, count=count)


def radii(outcomes: Sequence[Outcomes]) -> Iterator[Figures]:
    """Compare each attack at two radii, but not one long step.

    Of several pairs the most suspicious one is told. That accuracy stays
    means something only at the largest radius, and where a point is an image.
    """
    ordered = sorted(outcomes, key=lambda outcome: outcome.threat_model.eps)
    found: dict[str, Figures] = {}
    for one, other in combinations(ordered, 2):
        small, large = one.threat_model, other.threat_model
        doubled = large.eps >= 2 * small.eps >= 2 * _NOTICEABLE[small.norm]
        tells = other is ordered[-1] and _FLAT * len(other.labels) >= 100
        for name in one.attacks:
            if name in _SINGLE_STEP:
                continue
            left = other.correct(name), one.correct(name)
            after, before = map(percent, left)
            stays = doubled and tells and before - after < _FLAT
            suspicious = stays or _gained(*left) >= _FLAT
            known = found.get(name)
            if suspicious and (
                known is None
                or after - before > known['after'] - known['before']
            ):
                found[name] = dict(
                    attack=name,
                    small=small,
                    large=large,
                    before=before,
                    after=after,
                    chance=other.chance,
                )
    yield from found.values()


def _left_by_each(outcome: Outcomes) -> dict[str, np.ndarray]:
    """The images left correct by each attack and each part of AutoAttack."""
    parts = outcome.parts.get('autoattack', {})
    left = {name: parts[name] == outcome.labels for name in parts}
    return left | {name: outcome.correct(name) for name in outcome.attacks}


def _compare(
    left: dict[str, np.ndarray], weaker: str, stronger: str
) -> Figures:
    return dict(
        weaker=weaker,
        stronger=stronger,
        left_by_weaker=percent(left[weaker]),
        left_by_stronger=percent(left[stronger]),
        gained=_gained(left[weaker], left[stronger]),
        total=len(left[weaker]),
    )


def _gained(weaker: np.ndarray, stronger: np.ndarray) -> float:
    """Points by which ``stronger`` leaves fewer images, 0 if that is chance.

    By McNemar's test: two standard deviations of the number of images that
    only one of them fools.
    """
    won, lost = (weaker & ~stronger).sum(), (stronger & ~weaker).sum()
    gained = int(won) - int(lost)
    by_chance = gained <= 2 * math.sqrt(won + lost)
    return 0.0 if by_chance else 100 * gained / len(weaker)
