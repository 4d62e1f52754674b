"""The coverage of mmpretrain's configs as a page."""

from __future__ import annotations

from collections.abc import Sequence

from m2at_mm.coverage.attempt import STATUSES, Outcome

_MEANING = {
    'works': 'two training iterations, a robust validation, and evaluations '
    'under PGD-20 of ten images and of a single one',
    'refused': 'refused at once, with the reason',
    'upstream': 'mmpretrain itself fails on the stock config in the same way',
    'fails': 'to be mended here',
}


def to_markdown(outcomes: Sequence[Outcome], heading: str) -> str:
    """A table by family, and the reasons of what does not work.

    Args:
        outcomes (Sequence[Outcome]): Of all configs.
        heading (str): What was run and where, in Markdown.

    Returns:
        str: The page, in Markdown.
    """
    lines = [heading, '', '| outcome | configs | meaning |', '|---|---:|---|']
    for status in STATUSES:
        count = sum(one.status == status for one in outcomes)
        lines.append(f'| {status} | {count} | {_MEANING[status]} |')
    lines += ['', '## By family', '']
    lines += [f'| family | {" | ".join(STATUSES)} |', '|---|' + '---:|' * 4]
    for family in sorted({one.family for one in outcomes}):
        counts = [
            sum(
                one.family == family and one.status == status
                for one in outcomes
            )
            for status in STATUSES
        ]
        shown = ' | '.join(str(count or '') for count in counts)
        lines.append(f'| {family} | {shown} |')
    for status in STATUSES[1:]:
        lines += _reasons(outcomes, status)
    lines += _variants(outcomes)
    return '\n'.join(lines) + '\n'


def _reasons(outcomes: Sequence[Outcome], status: str) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for one in outcomes:
        if one.status == status:
            by_reason.setdefault(one.note, []).append(one.config)
    if not by_reason:
        return []
    lines = ['', f'## {status.capitalize()}: {_MEANING[status]}', '']
    for reason, configs in sorted(by_reason.items()):
        lines.append(f'- {reason}:')
        lines += [f'    - `{config}`' for config in configs]
    return lines


def _variants(outcomes: Sequence[Outcome]) -> list[str]:
    varied = [one for one in outcomes if one.status == 'works' and one.note]
    if not varied:
        return []
    lines = ['', '## Run in a variant', '']
    lines += [f'- `{one.config}`: {one.note}' for one in varied]
    return lines
