"""Signs that a robust accuracy is overestimated."""

from __future__ import annotations

from dataclasses import dataclass

# Points by which the margin loss may be below the cross-entropy: undefended
# and PGD-trained networks stay within 5, networks that only fool the
# cross-entropy are off by 10 to 30.
_MARGIN_GAP = 8.0


@dataclass(frozen=True)
class Alarm:
    """A sign of gradient masking, with its evidence in numbers."""

    name: str
    message: str


def find_alarms(accuracies: dict[str, float], num_samples: int) -> list[Alarm]:
    """What in a set of accuracies should not be, were the attacks good.

    Args:
        accuracies (dict[str, float]): Accuracy in per cent by attack, with
            ``clean``. ``pgdN`` and ``cwN`` are compared for equal N.
        num_samples (int): Number of images behind them.

    Returns:
        list[Alarm]: Empty if nothing is suspicious.
    """
    alarms = []
    for name, under_ce in accuracies.items():
        under_margin = accuracies.get(name.replace('pgd', 'cw', 1))
        if not name.startswith('pgd') or under_margin is None:
            continue
        gap = under_ce - under_margin
        if gap >= _MARGIN_GAP:
            alarms.append(
                Alarm(
                    'margin_below_cross_entropy',
                    f'accuracy is {under_margin:.1f} % under the margin loss '
                    f'but {under_ce:.1f} % under the cross-entropy, '
                    f'{gap:.1f} points apart on {num_samples} images: the '
                    'cross-entropy attack fails, its figure means nothing',
                )
            )
    return alarms
