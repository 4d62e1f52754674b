"""The coverage of mmpretrain's configs as a page."""

from collections import Counter
from collections.abc import Sequence

from config_coverage.attempt import STATUSES, Outcome


def to_markdown(outcomes: Sequence[Outcome], heading: str) -> str:
    """Tables by outcome and by family, and reasons for what does not work.

    Args:
        outcomes (Sequence[Outcome]): Of all configs.
        heading (str): What was run and where, in Markdown.
    """
    total = Counter(one.status for one in outcomes)
    lines = [heading, '', '| outcome | configs | meaning |', '|---|---:|---|']
    for status, meaning in STATUSES.items():
        lines.append(f'| {status} | {total[status]} | {meaning} |')
    lines += ['', '## By family', '']
    lines += [f'| family | {" | ".join(STATUSES)} |', '|---|' + '---:|' * 4]
    counts = Counter((one.family, one.status) for one in outcomes)
    for family in sorted({one.family for one in outcomes}):
        cells = [str(counts[family, key] or '') for key in STATUSES]
        lines.append(f'| {" | ".join([family, *cells])} |')
    for status, meaning in STATUSES.items():
        if status != 'works' and total[status]:
            lines += ['', f'## {status.capitalize()}: {meaning}', '']
            lines += _reasons([o for o in outcomes if o.status == status])
    varied = [one for one in outcomes if one.status == 'works' and one.note]
    if varied:
        lines += ['', '## Run in a variant', '']
        lines += [f'- `{one.config}`: {one.note}' for one in varied]
    return '\n'.join(lines) + '\n'


def _reasons(outcomes: Sequence[Outcome]) -> list[str]:
    lines = []
    for reason in sorted({one.note for one in outcomes}):
        lines.append(f'- {reason}:')
        lines += [f'    - `{o.config}`' for o in outcomes if o.note == reason]
    return lines
