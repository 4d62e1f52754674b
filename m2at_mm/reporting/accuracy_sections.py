"""The sections of a report on accuracy, without attack and under attack."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from mmpretrain.evaluation import ConfusionMatrix

from m2at_mm.evaluation.outcomes import wilson_interval
from m2at_mm.evaluation.results import group_alike, settings_of
from m2at_mm.reporting import figures
from m2at_mm.reporting.html import EMPTY, blocks
from m2at_mm.reporting.measurement import ATTACK, Report
from m2at_mm.reporting.run_log import RunLog

# Classes whose names and counts a confusion matrix has room for.
_MOST_CLASSES = 20
_MOST_CONFUSED = 10

Results = Mapping[str, Any]


def accuracies(results: Results) -> dict[str, figures.Accuracy]:
    """Accuracy and interval by attack, with clean and the worst case.

    The results are the content of ``results.json``, or one radius of its
    sweep. Without ``intervals``, as in files of other projects, the interval
    is the Wilson one for ``num_samples``.
    """
    values = dict(results['attacks'], worst_case=results['worst_case'])
    if 'clean' in results:
        values = dict(clean=results['clean'], **values)
    total, known = results['num_samples'], results.get('intervals') or {}
    found = {}
    for key, value in values.items():
        counted = round(value * total / 100), total
        found[key] = value, tuple(known.get(key) or wilson_interval(*counted))
    return found


def unlike(different: Sequence[str]) -> Iterator[Markup]:
    """A warning, if evaluations differ."""
    if different:
        text = f'The evaluations differ in {", ".join(different)}: do not '
        text += 'compare their figures. Evaluations of the same images under '
        text += 'the same attacks and radius share a table.'
        yield blocks.warning(text)


def evaluation(report: Report) -> Iterator[Markup]:
    """The final evaluation of ``tools/test.py``, with alarms."""
    known = {run.name: run.results for run in report.runs if run.results}
    different, groups = group_alike(known, 'radius', 'images', 'attacks')
    yield from unlike(different)
    for number, group in enumerate(groups):
        found = {run: accuracies(one) for run, one in group.items()}
        one, *_ = group.values()
        # The worst case comes last.
        names = [*found[next(iter(found))]]
        cells = [[_cell(found[run][name]) for run in group] for name in names]
        rows = [[name, *line] for name, line in zip(names, cells)]
        used = (settings_of(one).get('checkpoint') for one in group.values())
        rows.append(['checkpoint', *(name or EMPTY for name in used)])
        counts = (str(len(alarm_names(one))) for one in group.values())
        rows.append(['alarms', *counts])
        title = 'Accuracy in per cent, with 95 % Wilson intervals, under '
        title += f'{radius(one)} on {one["num_samples"]} images. worst_case: '
        title += 'classified correctly without attack, under every attack '
        title += 'and in the second opinion'
        yield blocks.table(title, ['', *group], rows)
        shown = {run.name: found.get(run.name, {}) for run in report.runs}
        place = f'final-accuracy-{number}'
        yield blocks.figures([figures.draw_intervals(place, names, shown)])
    for run in report.runs:
        yield from _remarks(run)


def _remarks(run: RunLog) -> Iterator[Markup]:
    if run.results is None:
        text = f'{run.name} has no results of tools/test.py in {run.folder}.'
        yield blocks.text(text)
        return
    used, *others = (str(p.relative_to(run.folder)) for p in run.evaluations)
    text = f'{run.name}: from {used}'
    yield blocks.text(
        f'{text}, the newest; older: {", ".join(others)}.'
        if others
        else f'{text}.'
    )
    yield from _alarms(run.name, run.results)
    notes = [*(run.results.get('notes') or [])]
    if not run.results.get('alarms'):
        notes.insert(0, 'no alarm, no sign of masked gradients.')
    for note in notes:
        yield blocks.text(f'{run.name}: {note}')


def radius(results: Results) -> str:
    """Norm and radius, like ``'linf 8/255'``."""
    threat = results['threat_model']
    return f'{threat["norm"]} {_in_pixels(threat["eps"])}'


def _in_pixels(eps: float) -> str:
    return f'{eps * 255:.4g}/255'


def alarm_names(results: Results) -> list[str]:
    """The alarms of an evaluation, in their order."""
    return [alarm['name'] for alarm in results.get('alarms') or []]


def _alarms(run: str, results: Results) -> Iterator[Markup]:
    for alarm in results.get('alarms') or []:
        yield blocks.warning(f'{run}: {alarm["name"]}: {alarm["message"]}')


def _cell(accuracy: figures.Accuracy | None) -> str | tuple[str, str]:
    if accuracy is None:
        return EMPTY
    value, (low, high) = accuracy
    return f'{value:.1f}', f'{low:.1f} to {high:.1f}'


def sweep(report: Report) -> Iterator[Markup]:
    """Accuracy against the radius."""
    known: dict[str, Results] = {}
    notes = []
    for run in report.runs:
        results = run.results
        source = 'worst case over the attacks of the evaluation'
        if results is None or 'sweep' not in results:
            if run.name not in report.measured:
                text = f'{run.name}: no evaluation at several radii.'
                notes.append(blocks.text(text))
                continue
            results = report.measured[run.name].results
            source = f'{ATTACK}, measured for this report'
            notes += _alarms(run.name, results)
        source += f', on {results["num_samples"]} test images.'
        notes.append(blocks.text(f'{run.name}: {source}'))
        known[run.name] = results
    different, groups = group_alike(known, 'norm', 'images', 'attacks')
    yield from unlike(different)
    for number, group in enumerate(groups):
        points = {run.name: _by_radius(group, run.name) for run in report.runs}
        drawn = figures.draw_sweep(f'sweep-figure-{number}', points)
        yield blocks.figures([drawn])
        title = 'Accuracy in per cent by radius, with 95 % Wilson intervals'
        radii = sorted({eps for one in points.values() for eps in one})
        cells = [[_cell(points[run].get(x)) for x in radii] for run in group]
        rows = [[run, *each] for run, each in zip(group, cells)]
        yield blocks.table(title, ['run', *map(_in_pixels, radii)], rows)
    yield from notes


def _by_radius(
    group: Mapping[str, Results], run: str
) -> dict[float, figures.Accuracy]:
    if run not in group:
        return {}
    found = {0.0: accuracies(group[run])['clean']}
    for one in group[run]['sweep']:
        found[one['threat_model']['eps']] = accuracies(one)['worst_case']
    return found


def confusions(report: Report) -> Iterator[Markup]:
    """Which classes are taken for which, without attack and under attack."""
    for number, run in enumerate(report.runs):
        yield blocks.heading(run.name)
        found, source = _predictions(run, report)
        if found:
            names = report.class_names(run)
            yield from _confusions(f'confusion-{number}', found, names)
        yield blocks.text(source)


def _predictions(
    run: RunLog, report: Report
) -> tuple[dict[str, np.ndarray], str]:
    """Labels and predictions by attack, and where they are from."""
    note = 'An image that is misclassified clean keeps its prediction.'
    if run.results is not None and 'clean' in run.predictions:
        known = run.predictions
        at = f'@{run.results["threat_model"]["eps"] * 255:.6g}/255'
        attacks = run.results['attacks']
        for name in sorted(attacks, key=attacks.__getitem__):
            found = {k: known[k] for k in ('label', 'clean')}
            if (key := name if name in known else name + at) in known:
                text = f'From the evaluation, {len(known["label"])} test '
                text += f'images; {name} is the strongest single attack there.'
                return {**found, name: known[key]}, f'{text} {note}'
    if run.name in report.measured:
        outcome = report.measured[run.name].outcome
        text = f'Measured for this report on {len(outcome.labels)} test images'
        found = dict(outcome.predictions, label=outcome.labels)
        return found, f'{text}. {note}'
    text = 'There are no predictions per image: no .samples.npz beside the '
    return {}, f'{text}results, and no measurement with the network.'


def _confusions(
    name: str, predictions: dict[str, np.ndarray], names: Sequence[str] | None
) -> Iterator[Markup]:
    labels = predictions.pop('label')
    every = [labels, *predictions.values()]
    count = 1 + max(int(values.max()) for values in every)
    if names is None or len(names) < count:
        names = [str(number) for number in range(count)]
    drawn: list[Markup] = []
    for attack, predicted in predictions.items():
        finite = predicted >= 0  # it is -1 where the logits are not finite
        given = predicted[finite], labels[finite], len(names)
        counts = ConfusionMatrix.calculate(*given).numpy()
        title = 'Clean' if attack == 'clean' else f'Under {attack}'
        if len(names) > _MOST_CLASSES:
            yield _most_confused(title, counts, names)
        else:
            place = f'{name}-{len(drawn)}'
            drawn.append(figures.draw_confusion(place, title, counts, names))
    if drawn:
        yield blocks.figures(drawn)


def _most_confused(title: str, counts: np.ndarray, names: Any) -> Any:
    wrong = counts - np.diag(counts.diagonal())
    order = np.argsort(-wrong, axis=None, kind='stable')[:_MOST_CONFUSED]
    pairs = zip(*np.unravel_index(order, wrong.shape))
    rows = [
        [names[i], names[k], str(wrong[i, k])] for i, k in pairs if wrong[i, k]
    ]
    head = ['true class', 'predicted', 'images']
    return blocks.table(f'{title}: the most frequent confusions', head, rows)
