"""What a report says first: the result of each run, in a box."""

import json
from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from m2at_mm.evaluation.results import group_alike, settings_of
from m2at_mm.reporting import accuracy_sections as accuracy
from m2at_mm.reporting.html import blocks
from m2at_mm.reporting.measurement import ATTACK, Report
from m2at_mm.reporting.run_log import RunLog


def result(report: Report) -> Iterator[Markup]:
    """The worst case of each run, and how far it can be trusted."""
    known: dict[str, accuracy.Results] = {}
    for run in report.runs:
        measured = report.measured.get(run.name)
        if run.results is not None:
            known[run.name] = run.results
        elif measured is not None:
            known[run.name] = measured.results
    different, _ = group_alike(known, 'radius', 'images', 'attacks')
    yield from accuracy.unlike(different)
    for run in report.runs:
        if run.name in known:
            yield _box(report, run, known[run.name])
            yield from _lower_ones(run)
        else:
            text = f'{run.name} was not evaluated: tools/test.py does it.'
            yield blocks.warning(text)


def _lower_ones(run: RunLog) -> Iterator[Markup]:
    """Older evaluations of the same network that found more."""
    for path in run.evaluations[1:]:
        try:
            other = json.loads(path.read_bytes())
        except ValueError:
            continue
        weights = settings_of(other).get('weights')
        if weights != settings_of(run.results or {}).get('weights'):
            continue
        pair = dict(newest=run.results or {}, older=other)
        if group_alike(pair, 'radius', 'images')[0] or not weights:
            continue
        if other['worst_case'] < pair['newest']['worst_case']:
            place = path.relative_to(run.folder)
            text = f'{run.name}: an older evaluation of this network, {place},'
            text += f' left {other["worst_case"]:.1f} %, under '
            yield blocks.warning(f'{text}{", ".join(other["attacks"])}.')


def _box(report: Report, run: RunLog, results: accuracy.Results) -> Markup:
    values = accuracy.accuracies(results)
    worst, (low, high) = values['worst_case']
    clean, (least, most) = values['clean']
    attacks = results['attacks']
    strongest = 'none was run'
    if attacks:
        name = min(attacks, key=attacks.__getitem__)
        strongest = f'{name}, {attacks[name]:.1f} %'
    alarms = [*dict.fromkeys(accuracy.alarm_names(results))]
    measured = report.measured.get(run.name)
    if measured is not None and 'sweep' not in results:
        more = dict.fromkeys(accuracy.alarm_names(measured.results))
        alarms += [f'{name} (in the sweep of this report)' for name in more]
    facts = {
        'clean': f'{clean:.1f} % ({least:.1f} to {most:.1f})',
        'images': _images(results),
        'strongest attack': strongest,
        'alarms': ', '.join(alarms) or 'none',
        'checkpoint': _checkpoint(run, results),
    }
    advice = 'An upper bound: another attack can only lower it.'
    if run.results is None:
        advice += f' By {ATTACK} alone, for this report: run tools/test.py.'
    elif 'autoattack' not in attacks:
        advice += ' Run AutoAttack, too, before you trust it.'
    elif (gap := results.get('pgd_minus_autoattack')) is not None:
        advice += f' Accuracy under AutoAttack is {gap:.1f} points below that '
        advice += 'under PGD.'
    shown = f'{worst:.1f} %', f'{low:.1f} to {high:.1f}'
    under = f'worst case under {accuracy.radius(results)}'
    if len(attacks) == 1:
        alone = ', '.join(attacks)
        under = f'left by {alone} alone, under {accuracy.radius(results)}'
    box: Markup = blocks.result(run.name, *shown, under, facts, advice, alarms)
    return box


def _images(results: accuracy.Results) -> str:
    counts: Any = results.get('class_counts') or ()
    total, present = len(counts), sum(map(bool, counts))
    if not total:
        return str(results['num_samples'])
    every = f'{total}' if present == total else f'{present} of {total}'
    return f'{results["num_samples"]}, of {every} classes'


def _checkpoint(run: RunLog, results: accuracy.Results) -> str:
    name = settings_of(results).get('checkpoint')
    if not name:
        return 'not named'
    if name.startswith('best_'):
        val, test = (
            (run.config.get(f'{part}_dataloader') or {}).get('dataset')
            for part in ('val', 'test')
        )
        where = 'in validation'
        if val and val == test:
            where = 'on the test images, which overestimates it'
        return f'{name}, the best {where}'
    last = run.last_checkpoint
    return f'{name}, the last' if last and last.name == name else name
