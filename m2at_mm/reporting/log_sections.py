"""The sections of a report that the work dirs alone can fill."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from m2at_mm.reporting.blocks import EMPTY, Block, Cell, Section, Table
from m2at_mm.reporting.line_figures import draw_curves
from m2at_mm.reporting.run_log import RunLog
from m2at_mm.reporting.setting_differences import compare_settings

_TRAINING = {
    'loss': ('Training loss', 'loss'),
    'kept_share': ('Kept share of the perturbation', 'share'),
    'lr': ('Learning rate', 'lr'),
}


def overview(runs: Sequence[RunLog]) -> Section:
    """What was trained, and the best and the last epoch."""
    rows = [
        [
            run.name,
            _at(run.config, 'model.method.type'),
            _at(run.config, 'model.classifier.backbone.type'),
            _at(run.config, 'train_dataloader.dataset.type'),
            _at(run.config, 'model.threat_model.eps'),
            _at(run.config, 'randomness.seed'),
            _length(run),
        ]
        for run in runs
    ]
    head = ['run', 'method', 'network', 'data', 'eps', 'seed', 'trained']
    table = Table('What was trained', head, rows)
    return Section('runs', 'Runs', [Block('table', content=table)])


def settings(runs: Sequence[RunLog]) -> Section:
    """What differs between the configs; the rest is folded away."""
    different, common = compare_settings([run.config for run in runs])
    blocks = []
    if len(runs) > 1:
        if different:
            table = Table(
                'Settings that differ between the runs',
                ['setting', *(run.name for run in runs)],
                [
                    [name, *(EMPTY if v is None else v for v in values)]
                    for name, values in different.items()
                ],
            )
            blocks.append(Block('settings', content=table))
        else:
            blocks.append(Block('text', 'All settings are the same.'))
    title = 'Common settings' if len(runs) > 1 else 'All settings'
    table = Table(title, ['setting', 'value'], [*common.items()])
    text = f'{title} ({len(common)})'
    blocks.append(Block('folded', text, table))
    return Section('settings', 'Settings', blocks)


def curves(runs: Sequence[RunLog]) -> Section:
    """Training and validation by epoch, with best and last marked."""
    figures = []
    units = dict.fromkeys(run.unit for run in runs)
    unit = ' or '.join(units)
    end = max((_end(run) for run in runs), default=0.0)
    for key, (title, ylabel) in _TRAINING.items():
        lines = {run.name: run.training.get(key, {}) for run in runs}
        if any(lines.values()):
            name = f'curve-{key.replace("_", "-")}'
            figures.append(draw_curves(name, title, lines, unit, ylabel, end))
    names = dict.fromkeys(name for run in runs for name in run.validation)
    marks = {run.name: mark for run in runs if (mark := best_and_last(run))}
    for number, name in enumerate(names):
        lines = {run.name: run.validation.get(name, {}) for run in runs}
        per_cent = name.startswith(('robust/', 'accuracy/'))
        title = f'Validation: {name.removeprefix("robust/")}'
        shown = {
            run.name: marks[run.name]
            for run in runs
            if run.name in marks
            and set(marks[run.name]) <= set(lines[run.name])
        }
        figures.append(
            draw_curves(
                f'curve-validation-{number}',
                title,
                lines,
                unit,
                'accuracy (%)' if per_cent else name,
                end,
                shown,
            )
        )
    blocks = [Block('figures', content=figures)]
    if marks:
        blocks.append(Block('table', content=_overfitting(runs)))
    else:
        blocks.append(Block('text', 'The logs have no validation.'))
    return Section('curves', 'Training', blocks)


def best_and_last(run: RunLog) -> tuple[float, float] | None:
    """The position of the best validation and that of the last one.

    The best is that of :attr:`RunLog.selected`, the first among equals. A
    loss is best where it is lowest.
    """
    if run.selected is None:
        return None
    points = run.validation[run.selected]
    choose = min if 'loss' in run.selected else max
    best = choose(sorted(points), key=lambda position: points[position])
    return best, max(points)


def _overfitting(runs: Sequence[RunLog]) -> Table:
    rows: list[list[Cell]] = []
    for run in runs:
        found = best_and_last(run)
        if found is None or run.selected is None:
            rows.append([run.name, *[EMPTY] * 4])
            continue
        points = run.validation[run.selected]
        best, last = ((points[at], f'{run.unit} {at:g}') for at in found)
        rows.append(
            [
                run.name,
                run.selected,
                *((f'{value:.2f}', at) for value, at in (best, last)),
                f'{abs(best[0] - last[0]):.2f}',
            ]
        )
    return Table(
        'Robust overfitting: what the end of training has lost since the best '
        'validation',
        ['run', 'figure', 'best', 'last', 'lost'],
        rows,
    )


def origin(runs: Sequence[RunLog]) -> Section:
    """Versions, seed and commit of each run, and its commands."""
    keys = dict.fromkeys(
        key for run in runs for key in run.environment if key != 'command'
    )
    rows = [
        [key, *(run.environment.get(key, EMPTY) for run in runs)]
        for key in keys
    ]
    if 'commit' not in keys:
        rows.append(['commit', *['not in the log'] * len(runs)])
    head = ['', *(run.name for run in runs)]
    table = Table('Environment, from the log', head, rows)
    blocks = [Block('settings', content=table)]
    for run in runs:
        blocks.append(Block('heading', f'Commands of {run.name}'))
        blocks += _commands(run)
    return Section('environment', 'Environment and commands', blocks)


def _commands(run: RunLog) -> list[Block]:
    blocks = []
    command = run.environment.get('command')
    if command is None:
        blocks.append(
            Block(
                'text',
                'The log does not have the training command. This one trains '
                'the same config again:',
            )
        )
        folder = f'{run.folder}_again'
        words = ['python', 'tools/train.py', str(run.config_file)]
        command = shlex.join([*words, '--work-dir', folder])
    blocks.append(Block('code', command))
    if run.results is not None:
        blocks.append(Block('text', 'The evaluation, from results.json:'))
        blocks.append(Block('code', _test_command(run, run.results)))
    return blocks


def _test_command(run: RunLog, results: dict[str, Any]) -> str:
    told = results.get('settings') or {}
    checkpoint = told.get('checkpoint') or 'CHECKPOINT'
    words = ['python', 'tools/test.py', str(run.config_file)]
    words += [str(run.folder / checkpoint), '--attacks', 'clean']
    words += results['attacks']
    if 'sweep' in results:
        radii = [one['threat_model']['eps'] for one in results['sweep']]
        words += ['--eps', *(f'{eps * 255:.6g}/255' for eps in radii)]
    words += ['--num-samples', str(results['num_samples'])]
    for option in ('batch_size', 'seed'):
        if option in told:
            words += [f'--{option.replace("_", "-")}', str(told[option])]
    return shlex.join(words)


def _end(run: RunLog) -> float:
    """The last position of which the log tells."""
    curves = [*run.training.values(), *run.validation.values()]
    return max((max(points) for points in curves if points), default=0.0)


def _length(run: RunLog) -> str:
    wanted = (run.config.get('train_cfg') or {}).get(
        'max_epochs' if run.unit == 'epoch' else 'max_iters'
    )
    text = f'{_end(run):.4g} {run.unit}s'
    return f'{text} of {wanted}' if wanted else text


def _at(config: dict[str, Any], path: str) -> str:
    """A setting by its dotted name, a dash if there is none."""
    value: Any = config
    for key in path.split('.'):
        value = value.get(key) if isinstance(value, dict) else None
    return EMPTY if value is None else str(value).rpartition('m2at_mm.')[2]
