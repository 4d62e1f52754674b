"""The sections of a report on accuracy, clean and under attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from m2at_mm.reporting.accuracy import (
    accuracies,
    confusion,
    shown_attacks,
    strongest_attack,
    sweep_points,
)
from m2at_mm.reporting.blocks import EMPTY, Block, Cell, Section, Table
from m2at_mm.reporting.heat_maps import MOST_CLASSES, draw_confusion
from m2at_mm.reporting.line_figures import draw_intervals, draw_sweep
from m2at_mm.reporting.measurement import ATTACK, Measurement, class_names
from m2at_mm.reporting.run_log import RunLog

_MOST_CONFUSED = 10

Measured = Mapping[str, Measurement]


def evaluation(runs: Sequence[RunLog]) -> Section:
    """The final evaluation of ``tools/test.py``, with alarms."""
    found = {run.name: run.results for run in runs if run.results is not None}
    blocks = []
    if found:
        blocks += [
            Block('text', _verdict(run, results))
            for run, results in found.items()
        ]
        blocks.append(Block('table', content=_accuracy_table(found)))
        figure = draw_intervals(
            'final-accuracy', {run.name: run.results for run in runs}
        )
        blocks.append(Block('figures', content=[figure]))
    for run in runs:
        if run.results is None:
            blocks.append(
                Block(
                    'text',
                    f'{run.name} has no results.json: tools/test.py with '
                    f'--out {run.folder / "results.json"} writes one.',
                )
            )
            continue
        alarms = run.results.get('alarms') or []
        for alarm in alarms:
            text = f'{run.name}: {alarm["name"]}: {alarm["message"]}'
            blocks.append(Block('warning', text))
        if not alarms:
            text = f'{run.name}: no alarm, no sign of masked gradients.'
            blocks.append(Block('text', text))
        for note in run.results.get('notes') or []:
            blocks.append(Block('text', f'{run.name}: {note}'))
    return Section('evaluation', 'Final evaluation', blocks)


def _verdict(run: str, results: Mapping[str, Any]) -> str:
    """How robust the network is, and how far that can be trusted."""
    text = (
        f'{run}: {results["clean"]:.1f} % clean and at most '
        f'{results["worst_case"]:.1f} % under {_radius(results)}, on '
        f'{results["num_samples"]} images. It is an upper bound: another '
        'attack can only lower it.'
    )
    if 'autoattack' not in results['attacks']:
        return f'{text} Run AutoAttack, too, before you trust it.'
    gap = results.get('pgd_minus_autoattack')
    if gap is None:
        return text
    return f'{text} AutoAttack leaves {gap:.1f} points less than PGD.'


def _accuracy_table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    figures = {run: accuracies(results) for run, results in found.items()}
    attacks = shown_attacks(found.values())
    rows: list[list[Cell]] = []
    for run, results in found.items():
        told = results.get('settings') or {}
        row: list[Cell] = [run, told.get('checkpoint') or EMPTY]
        row.append(_radius(results))
        row.append(str(results['num_samples']))
        for attack in attacks:
            row.append(
                _with_interval(figures[run][attack])
                if attack in figures[run]
                else EMPTY
            )
        row.append(str(len(results.get('alarms') or [])))
        rows.append(row)
    return Table(
        'Accuracy in per cent, with 95 % Wilson intervals. worst_case: right '
        'clean and under every attack',
        ['run', 'checkpoint', 'eps', 'images', *attacks, 'alarms'],
        rows,
    )


def _radius(results: Mapping[str, Any]) -> str:
    threat = results['threat_model']
    return f'{threat["norm"]} {threat["eps"] * 255:.4g}/255'


def _with_interval(found: tuple[float, tuple[float, float]]) -> Cell:
    value, (low, high) = found
    return f'{value:.1f}', f'{low:.1f} to {high:.1f}'


def sweep(runs: Sequence[RunLog], measured: Measured) -> Section:
    """Accuracy against the radius."""
    found: dict[str, Mapping[str, Any]] = {}
    blocks = []
    for run in runs:
        if run.results is not None and 'sweep' in run.results:
            found[run.name] = run.results
            source = 'worst case over the attacks of results.json'
        elif run.name in measured:
            found[run.name] = measured[run.name].results
            source = f'{ATTACK}, measured for this report'
        else:
            text = f'{run.name}: no evaluation at several radii.'
            blocks.append(Block('text', text))
            continue
        count = found[run.name]['num_samples']
        text = f'{run.name}: {source}, on {count} test images.'
        blocks.append(Block('text', text))
        if run.results is not found[run.name]:
            blocks += [
                Block('warning', f'{run.name}: {a["name"]}: {a["message"]}')
                for a in found[run.name]['alarms']
            ]
    if found:
        figure = draw_sweep(
            'sweep-figure', {run.name: found.get(run.name) for run in runs}
        )
        table = Block('table', content=_sweep_table(found))
        blocks = [Block('figures', content=[figure]), table, *blocks]
    return Section('sweep', 'Accuracy against eps', blocks)


def _sweep_table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    points = {run: sweep_points(results) for run, results in found.items()}
    radii = sorted({eps for one in points.values() for eps in one})
    rows: list[list[Cell]] = [
        [
            run,
            *(
                _with_interval(one[eps]) if eps in one else EMPTY
                for eps in radii
            ),
        ]
        for run, one in points.items()
    ]
    return Table(
        'Accuracy in per cent by radius, with 95 % Wilson intervals',
        ['run', *(f'{eps * 255:.4g}/255' for eps in radii)],
        rows,
    )


def confusions(runs: Sequence[RunLog], measured: Measured) -> Section:
    """Which classes are taken for which, clean and under attack."""
    blocks = []
    for number, run in enumerate(runs):
        blocks.append(Block('heading', run.name))
        found = _predictions(run, measured)
        if found is None:
            text = 'There are no predictions per image: no results.samples.npz'
            text += ' and no measurement with the network.'
            blocks.append(Block('text', text))
            continue
        predictions, source = found
        names = class_names(run.config)
        blocks += _confusion_blocks(f'confusion-{number}', predictions, names)
        blocks.append(Block('text', source))
    return Section('classes', 'Confusion by class', blocks)


def _predictions(
    run: RunLog, measured: Measured
) -> tuple[dict[str, np.ndarray], str] | None:
    """Labels and predictions by attack, and where they are from."""
    if run.results is not None and 'clean' in run.predictions:
        worst = strongest_attack(run.results, run.predictions)
        if worst is not None:
            name, predicted = worst
            labels = run.predictions['label']
            return (
                dict(
                    label=labels,
                    clean=run.predictions['clean'],
                    **{name: predicted},
                ),
                f'From results.samples.npz, {len(labels)} test images; '
                f'{name} is the strongest single attack there. An image that '
                'is misclassified clean keeps its prediction.',
            )
    if run.name in measured:
        outcome = measured[run.name].outcome
        return (
            dict(outcome.predictions, label=outcome.labels),
            f'Measured for this report on {len(outcome.labels)} test images. '
            'An image that is misclassified clean keeps its prediction.',
        )
    return None


def _confusion_blocks(
    name: str,
    predictions: Mapping[str, np.ndarray],
    names: Sequence[str] | None,
) -> list[Block]:
    count = 1 + max(int(values.max()) for values in predictions.values())
    if names is None or len(names) < count:
        names = [str(number) for number in range(count)]
    blocks, figures = [], []
    for number, (attack, predicted) in enumerate(predictions.items()):
        if attack == 'label':
            continue
        counts = confusion(predictions['label'], predicted, len(names))
        title = 'Clean' if attack == 'clean' else f'Under {attack}'
        if len(names) <= MOST_CLASSES:
            figures.append(
                draw_confusion(f'{name}-{number}', title, counts, names)
            )
        else:
            table = _most_confused(title, counts, names)
            blocks.append(Block('table', content=table))
    if figures:
        blocks.append(Block('figures', content=figures))
    return blocks


def _most_confused(
    title: str, counts: np.ndarray, names: Sequence[str]
) -> Table:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind='stable')[:_MOST_CONFUSED]
    rows, columns = np.unravel_index(order, wrong.shape)
    return Table(
        f'{title}: the most frequent confusions',
        ['true class', 'predicted', 'images'],
        [
            [names[row], names[column], str(wrong[row, column])]
            for row, column in zip(rows, columns)
            if wrong[row, column]
        ],
    )
