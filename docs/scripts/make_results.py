"""Writes the tables of results from the JSON files in docs/results.

    python docs/scripts/make_results.py

Every evaluation, comparison and trial there is found by itself. On the pages
of docs/results and docs/methods a table stands between two comments that name
it.
"""

import re
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2] / 'tools'))
import performance_tables
from performance_tables import load

from comparison.summary import (
    curves_to_markdown,
    markdown_table,
    plot_trade_off,
    summarise,
)

DOCS = Path(__file__).resolve().parents[1]
RESULTS, METHODS = DOCS / 'results', DOCS / 'methods'
# Titles of the experiments, in the order of the page; others go last, under
# the name of their file.
TITLES = {
    'compare_narrow': 'All methods under one small budget',
    'search_narrow': "M2AT's options under that budget",
    'narrow_resnet18_12e': "M2AT's scale on a narrow ResNet-18",
    'full_evaluation': 'Every attack on the narrow networks',
    'finetune': 'Adversarial fine-tuning of a stock checkpoint',
    'trade_off': 'Curves of the trade-off under robust overfitting',
    'trade_off_parts': 'M2AT taken apart',
}
NAMES = {
    'undefended': 'undefended',
    'standard': 'standard',
    'pgd-at': 'PGD-AT',
    'm2at_scale1.0_label0.5': 'M2AT, scale 1, perturbed_label 0.5',
    'm2at_scale1.5_label0.7': 'M2AT, scale 1.5, perturbed_label 0.7',
    'm2at_scale2.0_label0.8': 'M2AT, scale 2, perturbed_label 0.8',
    'm2at': 'M2AT, scale 1.5',
    'm2at_scale1': 'M2AT, scale 1',
    'm2at_consistency6': 'M2AT, scale 1.5, consistency 6, perturbed_label 1',
    'm2at+awp': 'M2AT, scale 1.5 + AWP',
    'trades': 'TRADES',
    'mart': 'MART',
    'avmixup': 'AVmixup',
    'iat': 'IAT',
    'fast-at': 'Fast-AT',
    'plain_robust': 'plain robust',
    'stock': 'stock, undefended',
    'm2at-finetune': 'after m2at-finetune',
    'whole': 'M2AT, scale 2, perturbed_label 0.8',
    'hard_label': 'the same with hard labels',
    'random_share': 'a random share instead of the mask',
    'constant_share': 'the label alone: all kept, a constant label',
    'masked_attack': 'masks in the attack, anew in each step',
    'consistency': "hard labels and TRADES' loss, consistency 6",
    'masked_consistency': "masks in the attack on TRADES' loss, hard labels",
    'consistency_alone': "TRADES' loss alone: all kept, hard labels",
    'm2at_one_cycle': 'M2AT, one cycle, no averaged weights',
    'pgd-at_one_cycle': 'PGD-AT, one cycle, no averaged weights',
}
CURVES = {
    'pgd-at': 'PGD-AT, trained at {}',
    'm2at': 'M2AT, scale {}',
    'm2at_trades': "M2AT on TRADES' loss, scale {}",
    'm2at_hard': 'M2AT, hard labels, scale {}',
    'trades': 'TRADES, beta {}',
    'avmixup': 'AVmixup, gamma {}',
}
ATTACKS = {
    'fgsm': 'FGSM',
    'pgd20': 'PGD-20',
    'pgd100': 'PGD-100, 5 restarts',
    'cw20': 'margin PGD-20',
    'cw100': 'margin PGD-100',
    'apgd-ce': 'APGD-CE',
    'apgd-t': 'APGD-T',
    'autoattack': 'AutoAttack',
}
TRAININGS = {'fast-at': 'Fast-AT without random start', 'pgd-at': 'PGD-AT'}
PICTURES = ('narrow_resnet18_12e', 'compare_narrow')
Runs = dict[str, list[dict[str, Any]]]


def label(key: str) -> str:
    """A run's name for a reader, with the curve and the value of its dial."""
    curve, _, value = key.rpartition('_')
    method, _, ema = curve.partition('+')
    if key in NAMES or method not in CURVES:
        return NAMES.get(key, key)
    shown = CURVES[method].format(value.replace('-', '/'))
    return f'{shown}, averaged weights' if ema else shown


def is_evaluation(content: Any) -> bool:
    """Whether this is a results.json of tools/test.py."""
    return isinstance(content, dict) and 'worst_case' in content


def evaluated() -> dict[str, Runs]:
    """The evaluations in folders: by folder and network, one a seed."""
    rank = {name: k for k, name in enumerate(NAMES)}
    found: dict[str, Runs] = {}
    for path in sorted(RESULTS.glob('*/*.json')):
        content = load(path)
        if is_evaluation(content):
            name = re.sub(r'_seed\d+$', '', path.stem)
            runs = found.setdefault(path.parent.name, {})
            runs.setdefault(name, []).append(content)
    return {
        folder: dict(
            sorted(runs.items(), key=lambda run: rank.get(run[0], len(rank)))
        )
        for folder, runs in found.items()
    }


def compared() -> dict[str, Runs]:
    """The comparisons that tools/compare.py wrote, by file and method."""
    found = {path.stem: load(path) for path in RESULTS.glob('*.json')}
    return {
        name: content
        for name, content in found.items()
        if isinstance(content, dict)
        and all(
            isinstance(runs, list) and all(map(is_evaluation, runs))
            for runs in content.values()
        )
    }


def experiments() -> dict[str, Runs]:
    """All of both, in the order of the page."""
    found = {**evaluated(), **compared()}
    order = dict.fromkeys([*TITLES, *sorted(found)])
    return {name: found[name] for name in order if name in found}


def figures(run: dict[str, Any]) -> list[str]:
    """Clean accuracy, each attack and the worst case, as they are shown."""
    values = [run['clean'], *run['attacks'].values(), run['worst_case']]
    if run.get('pgd_minus_autoattack') is not None:
        values.append(run['pgd_minus_autoattack'])
    return [f'{value:.1f}' for value in values]


def table_of_runs(name: str) -> str:
    """All figures of an experiment, a row for each run."""
    runs = experiments()[name]
    first = next(run for seeds in runs.values() for run in seeds)
    head = [ATTACKS[attack] for attack in first['attacks']]
    head = ['clean', *head, 'worst case']
    if first.get('pgd_minus_autoattack') is not None:
        head.append('PGD minus AutoAttack')
    several = any(len(seeds) > 1 for seeds in runs.values())
    rows = [
        [label(key), *([str(seed)] if several else []), *figures(run)]
        for key, seeds in runs.items()
        for seed, run in enumerate(seeds)
    ]
    first_columns = ['method', 'seed'] if several else ['network']
    return markdown_table([*first_columns, *head], rows)


def table_of_overfitting(name: str) -> str:
    """Robust accuracy in validation of the best and the last checkpoint."""
    rows = []
    for key, runs in experiments()[name].items():
        for run in runs:
            best, last = run['validation']['best'], run['validation']['last']
            cells = (f'{value:.1f}' for value in (best, last, best - last))
            seed = f', seed {run["seed"]}' if len(runs) > 1 else ''
            rows.append([f'{label(key)}{seed}', *cells])
    return markdown_table(['network', 'best', 'last', 'lost'], rows)


def table_of_validation(name: str) -> str:
    """Clean and robust accuracy in every second validation, mean of the
    seeds."""
    rows = []
    for key, runs in experiments()[name].items():
        if not runs:
            continue
        curves = [run['validation']['curve'] for run in runs]
        epochs = [*curves[0]][1::2]
        cells = []
        for epoch in epochs:
            pairs = zip(*(curve[epoch] for curve in curves))
            cells.append(' / '.join(f'{fmean(pair):.1f}' for pair in pairs))
        rows.append([label(key), str(len(runs)), *cells])
    return markdown_table(['epoch', 'seeds', *epochs], rows)


def table_of_collapse() -> str:
    """The guard's figures after each epoch."""
    rows = []
    for key, run in load(RESULTS / 'collapse.json').items():
        said = [error.partition(':')[0] for error in run['errors']]
        for epoch, values in enumerate(
            zip(run['clean'], run['fgsm'], run['pgd']), 1
        ):
            last = epoch == len(run['clean'])
            rows.append(
                [
                    TRAININGS[key],
                    str(epoch),
                    *(f'{value:.1f}' for value in values),
                    said[0] if said and last else '',
                ]
            )
    head = ['training', 'epoch', 'clean', 'FGSM', 'PGD-10', 'said in the log']
    return markdown_table(head, rows)


def overview(name: str, runs: Runs) -> str:
    """An experiment in the columns that all have in common."""
    rows = []
    for entry in summarise(runs):
        mean = entry.mean
        cells = [
            entry.show(key) if key in mean else ''
            for key in ('clean', 'pgd20', 'worst_case')
        ]
        gap = mean.get('pgd20', 0) - mean['worst_case']
        shown = f'{gap:.1f}' if 'pgd20' in mean else ''
        rows.append([label(entry.name), str(entry.seeds), *cells, shown])
    head = ['network', 'seeds', 'clean', 'PGD-20', 'worst case', 'gap']
    page, picture = RESULTS / f'{name}.md', RESULTS / f'{name}.png'
    title = TITLES.get(name, name)
    heading = f'[{title}]({page.name})' if page.exists() else title
    parts = [f'## {heading}', conditions(runs), markdown_table(head, rows)]
    if picture.exists():
        parts.append(f'![Clean against worst-case accuracy]({picture.name})')
        parts.append('*Mean of the seeds, with half of their range.*')
    return '\n\n'.join(part.rstrip('\n') for part in parts) + '\n'


def conditions(runs: Runs) -> str:
    """Attacks, images and alarms of an experiment, in words."""
    every = [run for seeds in runs.values() for run in seeds]
    used = {attack for run in every for attack in run['attacks']}
    shown = ', '.join(ATTACKS[key] for key in ATTACKS if key in used)
    images = sorted({run['num_samples'] for run in every})
    datasets = [run.get('settings', {}).get('dataset', {}) for run in every]
    held_out = all(dataset.get('split') == 'val' for dataset in datasets)
    kind = 'validation' if held_out else 'test'
    alarms = sum(len(run['alarms']) for run in every)
    return (
        f'Worst case over {shown}; {" or ".join(map(str, images))} '
        f'{kind} images; {alarms or "no"} alarms.'
    )


def table_of_trials() -> str:
    """The interrupted trainings of each kind."""
    rows = []
    for path in sorted(RESULTS.glob('interruptions_*.json')):
        trials = load(path)
        rows.append(
            [
                f'[{path.stem.partition("_")[2]}]({path.name})',
                str(len(trials)),
                str(sum(trial['writing'] for trial in trials)),
                str(sum(not trial['differs'] for trial in trials)),
            ]
        )
    head = ['checkpoints after', 'killed and resumed', 'killed while writing']
    return markdown_table([*head, 'bit for bit equal'], rows)


def table_of_method(method: str) -> str:
    """What was measured of a method, an experiment and network a row."""
    rows = []
    for name, runs in experiments().items():
        own = {
            key: seeds
            for key, seeds in runs.items()
            if re.split(r'[_+]|-finetune', key)[0] == method
        }
        for entry in summarise(own):
            figures_shown = (
                f'{entry.mean[key]:.1f}' for key in ('clean', 'worst_case')
            )
            shown = TITLES.get(name, name), label(entry.name)
            rows.append([*shown, *figures_shown])
    if not rows:
        return 'Nothing yet.\n'
    head = ['experiment', 'network', 'clean', 'worst case']
    return (
        'Mean over the seeds; networks, attacks and conditions are in '
        '[Results](../../results/index.md).\n\n' + markdown_table(head, rows)
    )


def table_of_planted() -> str:
    """Models that are planted to look robust: before, now, and the truth."""
    before, now = (
        load(RESULTS / 'planted' / f'{name}.json')
        for name in ('before', 'now')
    )
    rows = []
    for key, row in now.items():
        shown = [before[key]['reported'], row['reported'], row['adaptive']]
        rows.append(
            [
                *key.split(', ', 1),
                f'{row["clean"]:.0f}',
                *(f'{value:.0f}' for value in shown),
                ', '.join(before[key]['alarms']) or '-',
                ', '.join(row['alarms']) or '-',
            ]
        )
    figures = ['clean', 'before', 'now', 'adaptive']
    head = ['network', 'planted', *figures, 'alarms before', 'alarms now']
    return markdown_table(head, rows)


def table_of_foreign() -> str:
    """Accuracy under the attacks of other packages, a row for each."""
    rows = [
        [norm, name, f'{one["accuracy"]:.1f}', f'{one["seconds"]:.1f}']
        for norm, attacks in load(RESULTS / 'foreign.json')['attacks'].items()
        for name, one in attacks.items()
    ]
    return markdown_table(['norm', 'attack', 'accuracy', 'seconds'], rows)


def tables() -> dict[Path, dict[str, str]]:
    """Each generated part, by page and name."""
    found = {
        RESULTS / f'{name}.md': {'runs': table_of_runs(name)}
        for name in ('narrow_resnet18_12e', 'full_evaluation', 'finetune')
    }
    found[RESULTS / 'compare_narrow.md'] = {
        'runs': table_of_runs('compare_narrow'),
        'search': table_of_runs('search_narrow'),
    }
    found[RESULTS / 'trade_off.md'] = {
        'overfitting': table_of_overfitting('trade_off'),
        'runs': table_of_runs('trade_off'),
        'curves': curves_to_markdown(load(RESULTS / 'trade_off.curves.json')),
        'parts': table_of_runs('trade_off_parts'),
        'parts_validation': table_of_validation('trade_off_parts'),
    }
    found[RESULTS / 'collapse.md'] = {'epochs': table_of_collapse()}
    for page in METHODS.glob('*/README.md'):
        found[page] = {'measured': table_of_method(page.parent.name)}
    parts = [overview(*item) for item in experiments().items()]
    found[RESULTS / 'index.md'] = {
        'evaluations': '\n'.join(parts),
        'interruptions': table_of_trials(),
    }
    found[RESULTS / 'foreign.md'] = {'attacks': table_of_foreign()}
    found[DOCS / 'alarms.md'] = {'planted': table_of_planted()}
    found[DOCS / 'performance.md'] = performance_tables.tables()
    return found


def fill(text: str, parts: dict[str, str]) -> str:
    """Put each part between its two comments.

    Raises:
        ValueError: The text has no such comments.
    """
    for name, part in parts.items():
        begin, end = f'<!-- {name}: make_results.py -->', f'<!-- /{name} -->'
        before, found, rest = text.partition(begin)
        _, also_found, after = rest.partition(end)
        if not (found and also_found):
            raise ValueError(f'no {begin} ... {end} in the page: add both')
        text = f'{before}{begin}\n\n{part}\n{end}{after}'
    return text


def draw_trade_off(name: str) -> None:
    """Draw the picture of an experiment, without its undefended network."""
    entries = summarise(
        {
            NAMES[key].partition(', perturbed')[0]: runs
            for key, runs in experiments()[name].items()
            if key != 'standard'
        }
    )
    plot_trade_off(entries, RESULTS / f'{name}.png')


def main() -> None:
    """Write pages and pictures."""
    for name in PICTURES:
        draw_trade_off(name)
    for path, parts in tables().items():
        path.write_text(fill(path.read_text('utf-8'), parts), 'utf-8')


if __name__ == '__main__':
    main()
