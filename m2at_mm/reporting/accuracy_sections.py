"""The sections of a report on accuracy, without attack and under attack."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from mmpretrain.evaluation import ConfusionMatrix

from m2at_mm.evaluation.outcomes import wilson_interval
from m2at_mm.reporting import figures
from m2at_mm.reporting.html import EMPTY, blocks
from m2at_mm.reporting.measurement import ATTACK, Report
from m2at_mm.reporting.run_log import RunLog, class_names

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


def evaluation(report: Report) -> Iterator[Markup]:
    """The final evaluation of ``tools/test.py``, with alarms."""
    results = {run.name: run.results for run in report.runs if run.results}
    found = {run: accuracies(one) for run, one in results.items()}
    for name, one in results.items():
        yield blocks.text(_verdict(name, one))
    if found:
        # The worst case comes last.
        attacks = dict.fromkeys(key for one in found.values() for key in one)
        del attacks['worst_case']
        columns = [*attacks, 'worst_case']
        rows = []
        for name, one in results.items():
            used = (one.get('settings') or {}).get('checkpoint') or EMPTY
            about = [name, used, _radius(one), str(one['num_samples'])]
            cells = [_cell(found[name].get(column)) for column in columns]
            rows.append([*about, *cells, str(len(one.get('alarms') or []))])
        head = ['run', 'checkpoint', 'eps', 'images', *columns, 'alarms']
        title = 'Accuracy in per cent, with 95 % Wilson intervals. worst_case:'
        title += ' classified correctly without attack, under every attack'
        title += ' and in the second opinion'
        yield blocks.table(title, head, rows)
        shown = {run.name: found.get(run.name, {}) for run in report.runs}
        drawn = figures.draw_intervals('final-accuracy', columns, shown)
        yield blocks.figures([drawn])
    for run in report.runs:
        yield from _remarks(run)


def _remarks(run: RunLog) -> Iterator[Markup]:
    if run.results is None:
        text = f'{run.name} has no results.json: tools/test.py with --out '
        yield blocks.text(f'{text}{run.folder / "results.json"} writes one.')
        return
    yield from _alarms(run.name, run.results)
    notes = [*(run.results.get('notes') or [])]
    if not run.results.get('alarms'):
        notes.insert(0, 'no alarm, no sign of masked gradients.')
    for note in notes:
        yield blocks.text(f'{run.name}: {note}')


def _verdict(run: str, results: Results) -> str:
    """How robust the network is, and how far that can be trusted."""
    text = f'{run}: {results["clean"]:.1f} % clean and at most '
    text += f'{results["worst_case"]:.1f} % under {_radius(results)}, on '
    text += f'{results["num_samples"]} images. It is an upper bound: another '
    text += 'attack can only lower it.'
    if 'autoattack' not in results['attacks']:
        return f'{text} Run AutoAttack, too, before you trust it.'
    if (gap := results.get('pgd_minus_autoattack')) is not None:
        text += f' Accuracy under AutoAttack is {gap:.1f} points below that '
        text += 'under PGD.'
    return text


def _radius(results: Results) -> str:
    threat = results['threat_model']
    return f'{threat["norm"]} {_in_pixels(threat["eps"])}'


def _in_pixels(eps: float) -> str:
    return f'{eps * 255:.4g}/255'


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
    points: dict[str, dict[float, figures.Accuracy]] = {}
    notes = []
    for run in report.runs:
        points[run.name] = {}
        results = run.results
        source = 'worst case over the attacks of results.json'
        if results is None or 'sweep' not in results:
            if run.name not in report.measured:
                text = f'{run.name}: no evaluation at several radii.'
                notes.append(blocks.text(text))
                continue
            results = report.measured[run.name].results
            source = f'{ATTACK}, measured for this report'
        source += f', on {results["num_samples"]} test images.'
        notes.append(blocks.text(f'{run.name}: {source}'))
        if results is not run.results:
            notes += _alarms(run.name, results)
        points[run.name] = {0.0: accuracies(results)['clean']}
        for one in results['sweep']:
            eps = one['threat_model']['eps']
            points[run.name][eps] = accuracies(one)['worst_case']
    radii = sorted({eps for one in points.values() for eps in one})
    if radii:
        yield blocks.figures([figures.draw_sweep('sweep-figure', points)])
        title = 'Accuracy in per cent by radius, with 95 % Wilson intervals'
        shown = {run: one for run, one in points.items() if one}
        cells = [[_cell(p.get(x)) for x in radii] for p in shown.values()]
        rows = [[run, *each] for run, each in zip(shown, cells)]
        yield blocks.table(title, ['run', *map(_in_pixels, radii)], rows)
    yield from notes


def confusions(report: Report) -> Iterator[Markup]:
    """Which classes are taken for which, without attack and under attack."""
    for number, run in enumerate(report.runs):
        yield blocks.heading(run.name)
        found, source = _predictions(run, report)
        if found:
            names = class_names(run.config)
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
                text = f'From results.samples.npz, {len(known["label"])} test '
                text += f'images; {name} is the strongest single attack there.'
                return {**found, name: known[key]}, f'{text} {note}'
    if run.name in report.measured:
        outcome = report.measured[run.name].outcome
        text = f'Measured for this report on {len(outcome.labels)} test images'
        found = dict(outcome.predictions, label=outcome.labels)
        return found, f'{text}. {note}'
    text = 'There are no predictions per image: no results.samples.npz and no '
    return {}, f'{text}measurement with the network.'


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
