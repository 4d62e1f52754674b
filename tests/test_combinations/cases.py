"""What users combine, and what becomes of a combination."""

import random
from collections.abc import Iterator
from itertools import combinations, product
from typing import Any

from allpairspy import AllPairs
from tiny import RECIPES

AXES: dict[str, list[Any]] = {
    'ranks': [1, 2],
    'loop': ['epochs', 'stock epochs', 'iterations'],
    'sampler': ['default', 'infinite'],
    'dataset': ['plain', 'repeat', 'concat', 'balanced', 'kfold', 'subset'],
    'labels': ['int', 'one-hot', 'mixup', 'smoothed'],
    'images': ['3x16x16', '1x16x16', '4x16x16', '3x16x24', 'one left'],
    'network': ['linear', 'arcface', 'stacked', 'vit', 'no neck', 'squeezed'],
    'loss': ['ce', 'smooth', 'bce', 'seesaw'],
    'method': ['Standard', 'PGDAT', 'M2AT', 'M2AT pairs', *[*RECIPES][3:]],
    'attack': ['pgd', 'pgd l2', 'margin', 'batch norms', 'fgsm', 'n-fgsm'],
    'evaluated': ['pgd', 'apgd-ce', 'nothing'],
    'hook': ['none', 'schedule', 'guard', 'early stopping', 'reduce rate'],
    'optimiser': ['plain', 'accumulating', 'awp'],
    'average': ['none', 'ema', 'swa', 'ours'],
    'run': ['whole', 'killed'],
    'style': ['names', 'classes', 'objects'],
}
Case = dict[str, Any]
PLAIN = {name: values[0] for name, values in AXES.items()}
_BY_EPOCH = ('epochs', 'stock epochs')
# Their targets are probabilities, whatever the labels are.
_SOFT_METHODS = ('M2AT', 'M2AT pairs', 'AVmixup', 'IAT')


def refusal(case: Case) -> str | None:
    """What the error must say, None where the combination must work.

    The axes of a part of a combination that are left open refuse nothing.
    """
    case = dict.fromkeys(AXES) | case
    soft = case['labels'] in ('mixup', 'smoothed')
    if case['loss'] == 'seesaw' and (soft or case['method'] in _SOFT_METHODS):
        return 'SeesawLoss'
    if case['method'] == 'MART' and case['labels'] == 'mixup':
        return 'needs hard labels.*batch_augments'
    if (case['optimiser'], case['method']) == ('awp', 'FreeAT'):
        return 'FreeAT moves its perturbation'
    if (case['hook'], case['loop']) == ('reduce rate', 'iterations'):
        return 'only support by_epoch'
    if (case['hook'], case['method']) == ('schedule', 'Standard'):
        return 'would change nothing'
    # It takes no epochs.
    needs_epochs = case['hook'] == 'reduce rate' or case['loop'] in _BY_EPOCH
    if case['sampler'] == 'infinite' and needs_epochs:
        return 'InfiniteSampler never ends.*De'
    return None


def all_pairs() -> Iterator[Case]:
    """Each pair of values of two axes, the other axes left open."""
    for one, other in combinations(AXES, 2):
        for first, second in product(AXES[one], AXES[other]):
            yield {one: first, other: second}


def is_covered(pair: Case, cases: list[Case]) -> bool:
    """Whether a combination has the pair's values."""
    return any(pair.items() <= case.items() for case in cases)


#: Combinations that must be refused; the axes left open are plain.
REFUSED = [PLAIN | pair for pair in all_pairs() if refusal(pair)]


def pairwise(seed: int) -> list[Case]:
    """Combinations in which each pair of values of two axes occurs.

    Values are shuffled by the seed, so that another one gives other triples.
    """
    rng = random.Random(seed)
    values = {name: rng.sample(AXES[name], len(AXES[name])) for name in AXES}
    # The last is taken where no pair asks for another: the cheaper one.
    values.update(ranks=[2, 1], run=['killed', 'whole'])

    def allowed(row: list[Any]) -> bool:
        return refusal(dict(zip(AXES, row))) is None

    rows = AllPairs(list(values.values()), filter_func=allowed)
    cases = [dict(zip(AXES, row)) for row in rows]
    # It gives a pair up where what it has chosen so far rules it out.
    for pair in all_pairs():
        if not refusal(pair) and not is_covered(pair, cases):
            cases.append(_completed(pair, rng))
    return cases


def _completed(pair: Case, rng: random.Random) -> Case:
    """A combination with the pair's values; the other ones are drawn."""
    for _ in range(10_000):
        drawn = {name: rng.choice(AXES[name]) for name in AXES}
        drawn |= dict(ranks=1, run='whole') | pair
        if refusal(drawn) is None:
            return drawn
    raise ValueError(f'no combination has {pair}: list it in refusal()')
