"""The sections of a report that the logs and configs of the runs can fill."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from m2at_mm.registry import TASK_UTILS
from m2at_mm.reporting.figures import draw_curves
from m2at_mm.reporting.html import EMPTY, blocks
from m2at_mm.reporting.measurement import Report
from m2at_mm.reporting.run_log import Points, RunLog

_TRAINING = {
    'loss': ('Training loss', 'loss'),
    'kept_share': ('Perturbation kept, after scaling', 'share'),
    'lr': ('Learning rate', 'lr'),
}
_OVERVIEW = {
    'method': 'model.method.type',
    'network': 'model.classifier.backbone.type',
    'data': 'train_dataloader.dataset.type',
    'eps': 'model.threat_model.eps',
    'seed': 'randomness.seed',
}
# Of an AdversarialClassifier whose config names only the classifier.
_DEFAULTS = {
    'model.method.type': 'M2AT',
    'model.threat_model.eps': '8/255',
}
# The folder of a run is its own, and a scope does not affect the training.
_NOT_COMPARED = ('work_dir', '_scope_')


def overview(report: Report) -> Iterator[Markup]:
    """What was trained, and for how long."""
    rows = []
    for run in report.runs:
        flat = {k: v for k, v in _flatten(run.config) if v != 'None'}
        if flat.get('model.type', '').endswith('AdversarialClassifier'):
            flat = _DEFAULTS | flat
        values = [flat.get(name, EMPTY) for name in _OVERVIEW.values()]
        shown = [value.rpartition('m2at_mm.')[2] for value in values]
        length = 'max_epochs' if run.unit == 'epoch' else 'max_iters'
        wanted = flat.get(f'train_cfg.{length}')
        trained = f'{run.end:.4g} {run.unit}s'
        trained += f' of {wanted}' if wanted else ''
        rows.append([run.name, *shown, trained])
    head = ['run', *_OVERVIEW, 'trained']
    yield blocks.table('What was trained', head, rows)


def settings(report: Report) -> Iterator[Markup]:
    """Settings that differ between the configs; the others are folded."""
    different, common = compare_settings([run.config for run in report.runs])
    several = len(report.runs) > 1
    if different:
        title = 'Settings that differ between the runs'
        head = ['setting', *(run.name for run in report.runs)]
        rows = [
            [name, *(EMPTY if v is None else v for v in values)]
            for name, values in different.items()
        ]
        yield blocks.table(title, head, rows, 'settings')
    elif several:
        yield blocks.text('All settings are the same.')
    title = 'Common settings' if several else 'All settings'
    head = ['setting', 'value']
    table = blocks.table(title, head, common.items(), 'settings')
    yield blocks.folded(f'{title} ({len(common)})', table)


def compare_settings(
    configs: Sequence[dict[str, Any]],
) -> tuple[dict[str, tuple[str | None, ...]], dict[str, str]]:
    """Separate the settings that differ from those that all configs share.

    A differing one has a value per config, None where one lacks it.
    """
    flat = [dict(_flatten(config)) for config in configs]
    names = dict.fromkeys(name for one in flat for name in one)
    values = {name: tuple(one.get(name) for one in flat) for name in names}
    common = {k: str(v[0]) for k, v in values.items() if len(set(v)) == 1}
    return {k: v for k, v in values.items() if k not in common}, common


def _flatten(value: Any, name: str = '') -> Iterator[tuple[str, str]]:
    """Pairs of a dotted name and a value; a list of numbers is a value."""
    nested: dict[Any, Any] = value if isinstance(value, dict) else {}
    if isinstance(value, (list, tuple)):
        if any(isinstance(part, (dict, list, tuple)) for part in value):
            nested = dict(enumerate(value))
    if not nested:
        yield name, value if isinstance(value, str) else repr(value)
    for key, part in nested.items():
        if key not in _NOT_COMPARED:
            yield from _flatten(part, f'{name}.{key}' if name else str(key))


def curves(report: Report) -> Iterator[Markup]:
    """Training and validation by epoch, with best and last marked."""
    runs = report.runs
    unit = ' or '.join(dict.fromkeys(run.unit for run in runs))
    end = max((run.end for run in runs), default=0.0)
    figures = []
    for key, (title, ylabel) in _TRAINING.items():
        lines = {run.name: run.training.get(key, {}) for run in runs}
        if key == 'kept_share':
            lines = {run.name: _kept(run) for run in runs}
        if any(lines.values()):
            name = f'curve-{key.replace("_", "-")}'
            figures.append(draw_curves(name, title, lines, unit, ylabel, end))
    yield blocks.figures(figures)
    yield from _unlike_validations(runs)
    yield from _validations(runs, unit, end)


def _kept(run: RunLog) -> Points:
    """How much of the perturbation the training images have.

    The log has the share before scaling.
    """
    points = run.training.get('kept_share', {})
    settings = (run.config.get('model') or {}).get('method') or {}
    kind = settings.get('type')
    kind = TASK_UTILS.get(kind) if isinstance(kind, str) else kind
    for name in ('scale', 'gamma'):
        factor = settings.get(name, getattr(kind, name, None))
        if factor is not None:
            return {at: factor * share for at, share in points.items()}
    return points


def _unlike_validations(runs: Sequence[RunLog]) -> Iterator[Markup]:
    """A warning if the curves of validation do not compare."""
    model = 'model.threat_model', 'model.eval_attacks'
    parts = *model, 'val_evaluator', 'val_dataloader.dataset'
    every = [run.config for run in runs if run.validation]
    different, _ = compare_settings(every)
    names = [name for name in different if name.startswith(parts)]
    if names:
        text = f'The validations differ in {", ".join(names)}: do not compare '
        yield blocks.warning(f'{text}their curves.')


def _validations(
    runs: Sequence[RunLog], unit: str, end: float
) -> Iterator[Markup]:
    marks = {run.name: m for run in runs if (m := run.best_and_last)}
    figures = []
    metrics = dict.fromkeys(name for run in runs for name in run.validation)
    for number, metric in enumerate(metrics):
        lines = {run.name: run.validation.get(metric, {}) for run in runs}
        per_cent = metric.startswith(('robust/', 'accuracy/'))
        axis = unit, 'accuracy (%)' if per_cent else metric, end
        known = {k: m for k, m in marks.items() if set(m) <= set(lines[k])}
        name = f'curve-validation-{number}'
        title = f'Validation: {metric.removeprefix("robust/")}'
        figures.append(draw_curves(name, title, lines, *axis, known))
    yield blocks.figures(figures)
    if not marks:
        yield blocks.text('The logs have no validation.')
        return
    title = 'Robust overfitting: difference of the last validation from the '
    head = ['run', 'figure', 'best', 'last', 'lost']
    yield blocks.table(f'{title}best', head, map(_overfitting, runs))


def _overfitting(run: RunLog) -> list[Any]:
    if run.selected is None or run.best_and_last is None:
        return [run.name, *[EMPTY] * 4]
    points, ends = run.validation[run.selected], run.best_and_last
    shown = [(f'{points[at]:.2f}', f'{run.unit} {at:g}') for at in ends]
    lost = abs(points[ends[0]] - points[ends[1]])
    return [run.name, run.selected, *shown, f'{lost:.2f}']


def origin(report: Report) -> Iterator[Markup]:
    """Versions, seed and commit of each run, and its commands."""
    runs = report.runs
    known = [run.environment for run in runs]
    keys = dict.fromkeys(key for one in known for key in one)
    keys.pop('command', None)
    rows = [[k, *(one.get(k, EMPTY) for one in known)] for k in keys]
    if 'commit' not in keys:
        rows.append(['commit', *['not in the log'] * len(runs)])
    head = ['', *(run.name for run in runs)]
    yield blocks.table('Environment, from the log', head, rows, 'settings')
    for run in runs:
        yield blocks.heading(f'Commands of {run.name}')
        command = run.environment.get('command')
        if command is None:
            text = 'The log does not have the training command. '
            yield blocks.text(f'{text}This one trains the same config again:')
            words = ['python', 'tools/train.py', str(run.config_file)]
            command = shlex.join([*words, '--work-dir', f'{run.folder}_again'])
        yield blocks.code(command)
        if run.results is not None:
            yield blocks.text('The evaluation, from results.json:')
            yield blocks.code(_test_command(run, run.results))


def _test_command(run: RunLog, results: dict[str, Any]) -> str:
    options = results.get('settings') or {}
    checkpoint = options.get('checkpoint') or 'CHECKPOINT'
    words = ['python', 'tools/test.py', str(run.config_file)]
    words += [str(run.folder / checkpoint), '--attacks', 'clean']
    words += results['attacks']
    if 'sweep' in results:
        radii = [one['threat_model']['eps'] for one in results['sweep']]
        words += ['--eps', *(f'{eps * 255:.6g}/255' for eps in radii)]
    words += ['--num-samples', str(results['num_samples'])]
    for option in ('batch_size', 'seed'):
        if option in options:
            words += [f'--{option.replace("_", "-")}', str(options[option])]
    return shlex.join(words)
