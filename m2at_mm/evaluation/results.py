"""The results of an evaluation: JSON, per-sample file and table."""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from m2at_mm.attacks.logits import NO_LABEL
from m2at_mm.evaluation.alarms import find_alarms
from m2at_mm.evaluation.outcomes import Outcomes, percent, wilson_interval
from m2at_mm.evaluation.store import Arrays, save_npz, to_json
from m2at_mm.files import write_whole

# Classes whose counts are printed one by one.
_FEW_CLASSES = 20


def make_results(
    outcomes: Sequence[Outcomes],
    probes: dict[str, Any],
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Sum up an evaluation.

    The outcomes are one per radius, the main one first; the settings tell the
    reader of the file what was evaluated and how.

    Returns:
        dict: Accuracies in per cent: ``clean``, ``attacks`` by name,
        ``worst_case`` (correct clean, under every attack and in the second
        opinion), ``autoattack_parts``, after each part of AutoAttack, and
        ``intervals`` of 95 %; ``second_opinion``, if there was one: the number
        of images ``asked`` about, which withstand all else, and ``fooled``;
        ``pgd_minus_autoattack``, the gap between the best PGD on the
        cross-entropy and AutoAttack, None unless both were run;
        ``class_counts``, the number of images of each class; ``num_samples``,
        ``threat_model``, ``alarms``, ``notes``, ``probes`` and ``settings``;
        and with several radii ``sweep``, the figures at each.
    """
    main = outcomes[0]
    counts = np.bincount(main.labels, minlength=main.num_classes or 0)
    results = dict(
        clean=percent(main.correct('clean')),
        **_figures(main),
        alarms=[vars(alarm) for alarm in find_alarms(outcomes, probes)],
        class_counts=counts.tolist(),
        notes=_notes(outcomes, counts),
        probes=probes,
        settings=settings or {},
    )
    if len(outcomes) > 1:
        ordered = sorted(outcomes, key=lambda one: one.threat_model.eps)
        results['sweep'] = [_figures(outcome) for outcome in ordered]
    return results


def _figures(outcome: Outcomes) -> dict[str, Any]:
    counted = _counted(outcome)
    attacks = {name: percent(counted[name]) for name in outcome.attacks}
    pgd = [attacks[name] for name in attacks if name.startswith('pgd')]
    both = pgd and 'autoattack' in attacks
    gap = min(pgd) - attacks['autoattack'] if both else None
    parts = {
        name: {k: percent(v == outcome.labels) for k, v in one.items()}
        for name, one in outcome.parts.items()
    }
    second = _second_opinion(outcome)
    return dict(
        attacks=attacks,
        worst_case=percent(counted['worst_case']),
        num_samples=len(outcome.labels),
        threat_model=outcome.threat_model.to_dict(),
        intervals={name: _interval(counted[name]) for name in counted},
        pgd_minus_autoattack=gap,
        autoattack_parts=parts,
        **(dict(second_opinion=second) if second else {}),
    )


def _counted(outcome: Outcomes) -> dict[str, np.ndarray]:
    """The images that are right, by attack, with clean and worst case."""
    counted = {name: outcome.correct(name) for name in outcome.predictions}
    return dict(counted, worst_case=outcome.worst())


def _second_opinion(outcome: Outcomes) -> dict[str, int] | None:
    if outcome.second_opinion is None:
        return None
    asked, left = outcome.withstanding().sum(), outcome.worst().sum()
    return dict(asked=int(asked), fooled=int(asked - left))


def _interval(correct: np.ndarray) -> tuple[float, float]:
    return wilson_interval(int(correct.sum()), len(correct))


def _notes(outcomes: Sequence[Outcomes], counts: np.ndarray) -> list[str]:
    notes = list(dict.fromkeys(n for one in outcomes for n in one.notes))
    total, most = counts.sum(), counts.max()
    if 1 < total == most or (total >= 100 and most > 3 * counts.mean()):
        told = f'one class has {most} of {total} images: the figures are '
        notes.append(f'{told}mostly those of this class')
    return notes + [
        f'{broken} images have logits that are not finite under {name} at '
        f'{outcome.threat_model}: they count as misclassified'
        for outcome in outcomes
        for name, predicted in outcome.predictions.items()
        if (broken := int((predicted == NO_LABEL).sum()))
    ]


def per_sample(outcomes: Sequence[Outcomes]) -> Arrays:
    """The predictions behind the figures, in the order of the dataset.

    They are of shape (N, ): ``index``, the position in the dataset, where it
    is known, ``label`` and ``clean``, and per attack and for
    ``second_opinion`` ``NAME``, or ``NAME@EPS/255`` with several radii.
    """
    main = outcomes[0]
    arrays = {} if main.positions is None else dict(index=main.positions)
    arrays |= dict(label=main.labels, clean=main.predictions['clean'])
    for outcome in outcomes:
        found = {name: outcome.predictions[name] for name in outcome.attacks}
        if outcome.second_opinion is not None:
            found['second_opinion'] = outcome.second_opinion
        radius = f'@{outcome.threat_model.eps * 255:.6g}/255'
        at = radius if len(outcomes) > 1 else ''
        arrays |= {name + at: found[name] for name in found}
    return {name: values.astype(np.int32) for name, values in arrays.items()}


def write_results(
    results: dict[str, Any], samples: Arrays, path: Path
) -> None:
    """Write the figures as JSON, and the predictions to ``.samples.npz``.

    The folder is made. Results that are there and differ are kept as
    ``*.old``.
    """
    text = to_json(results)
    beside = path.with_suffix('.samples.npz')
    if path.exists() and path.read_text(encoding='utf-8') != text:
        for file in filter(Path.exists, (path, beside)):
            names = (f'{file.name}.old{n if n > 1 else ""}' for n in count(1))
            places = map(file.with_name, names)
            kept = next(place for place in places if not place.exists())
            file.replace(kept)
            print(f'the previous {file} is now {kept}')
    save_npz(beside, samples)
    write_whole(path, lambda file: file.write_text(text, encoding='utf-8'))
    print(f'results: {path}, per image: {beside}')


def settings_of(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings in ``results.json``, empty in files that have none."""
    return results.get('settings') or {}


# What figures are comparable by: the norm alone for those of many radii.
_CONDITIONS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    'radius': lambda one: tuple(one['threat_model'].values()),
    'norm': lambda one: one['threat_model']['norm'],
    'images': lambda one: (settings_of(one).get('images'), one['num_samples']),
    'attacks': lambda one: frozenset(one['attacks']),
}


def group_alike(
    results: Mapping[str, Mapping[str, Any]], *names: str
) -> tuple[list[str], list[dict[str, Mapping[str, Any]]]]:
    """Put evaluations together whose figures compare.

    Args:
        results (Mapping[str, Mapping[str, Any]]): Contents of ``results.json``
            by run.
        *names (str): By what they compare, of ``'radius'``, ``'norm'``,
            ``'images'`` and ``'attacks'``.

    Returns:
        tuple[list[str], list[dict[str, Mapping[str, Any]]]]: The names in
        which some differ, and the groups of those that do not.
    """
    groups: dict[Any, dict[str, Mapping[str, Any]]] = {}
    for run, one in results.items():
        kind = tuple(_CONDITIONS[name](one) for name in names)
        groups.setdefault(kind, {})[run] = one
    columns = zip(names, zip(*groups))
    different = [name for name, values in columns if len(set(values)) > 1]
    return different, [*groups.values()]


def print_results(
    results: dict[str, Any], outcomes: Sequence[Outcomes]
) -> None:
    """Print a table per radius, then notes and alarms."""
    names = results['settings'].get('classes')
    counts = _describe_counts(results['class_counts'], names)
    lines = [f'images per class: {counts}']
    lines += [f'note: {note}' for note in results['notes']]
    lines += ['ALARM {name}: {message}'.format(**a) for a in results['alarms']]
    gap = results['pgd_minus_autoattack']
    if gap is not None:
        lines.insert(0, f'PGD minus AutoAttack: {gap:.2f} points')
    if not results['probes']:
        lines.append('no image is correct, so no gradient was looked at')
    elif not results['alarms']:
        lines.append('no sign of masked gradients was found')
    console = Console()
    for outcome in outcomes:
        console.print(_table(outcome))
    for line in lines:
        console.print(line, soft_wrap=True)


def _describe_counts(
    counts: Sequence[int], names: Sequence[str] | None = None
) -> str:
    if min(counts) == max(counts):
        return f'{counts[0]} of each of {len(counts)}'
    if len(counts) <= _FEW_CLASSES:
        labels = names or range(len(counts))
        return ', '.join(map('{}: {}'.format, labels, counts))
    return f'{min(counts)} to {max(counts)} of {len(counts)} classes'


def _table(outcome: Outcomes) -> Table:
    threat = outcome.threat_model
    title = f'{len(outcome.labels)} images, {threat.norm}, eps '
    table = Table(title=f'{title}{threat.eps * 255:g}/255')
    table.add_column('attack')
    for heading in ('accuracy (%)', '95 % interval', 'seconds'):
        table.add_column(heading, justify='right')
    second = _second_opinion(outcome)
    if second is not None:
        told = 'worst case: all of them and a second opinion, which fools '
        told += '{fooled} of the {asked} images left'
        table.caption = told.format(**second)
    for name, correct in _counted(outcome).items():
        cells = [name.replace('_', ' '), f'{percent(correct):.2f}']
        cells.append('{:.1f} to {:.1f}'.format(*_interval(correct)))
        if name in outcome.seconds:
            cells.append(f'{outcome.seconds[name]:.0f}')
        table.add_row(*cells)
    return table
