"""The tables of docs/performance.md, from the files of tools/benchmark.py."""

import json
from pathlib import Path
from typing import Any

from comparison.summary import markdown_table

RESULTS = Path(__file__).resolve().parents[1] / 'results'
NETWORKS = {
    'benchmark_w16': 'a quarter as wide, batch 64, PGD-10',
    'benchmark_w64': 'full width, batch 32, PGD-4',
}
SERIES = {
    'batch': 'images in a batch',
    'steps': 'attack steps',
    'size': 'height and width (batch 16)',
    'classes': 'classes',
    'processes': 'processes of one thread',
    'quick-processes': 'processes of one thread (PGD-1)',
}


def load(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text('utf-8'))


def table_of_iterations() -> str:
    """The contestants of each benchmark."""
    rows = []
    for name, network in NETWORKS.items():
        found = load(RESULTS / f'{name}.json')
        for which, one in found['contestants'].items():
            rows.append(
                [
                    f'[{network}](results/{name}.json)',
                    which,
                    f'{1000 * one["seconds"]:.0f}',
                    f'{one["images_per_second"]:.1f}',
                    _ratio(found['ratios'].get(which)),
                ]
            )
    return markdown_table(
        ['ResNet-18', 'iteration', 'ms', 'images/s', 'time / m2at_mm'], rows
    )


def _ratio(ratio: Any) -> str:
    if ratio is None:
        return '1'
    low, high = ratio['range']
    return f'{ratio["median"]:.2f} ({low:.2f} to {high:.2f})'


def table_of_parts() -> str:
    """Where the time of our iteration goes."""
    rows = []
    found = {
        network: load(RESULTS / f'{name}.json')
        for name, network in NETWORKS.items()
    }
    parts = [one['parts'] for one in found.values()]
    for part in parts[0]:
        cells = [part]
        for one in parts:
            share = 100 * one[part] / sum(one.values())
            cells.append(f'{1000 * one[part]:.1f} ms, {share:.1f} %')
        rows.append(cells)
    return markdown_table(['part', *found], rows)


def table_of_validation() -> str:
    """Robust validation in two ways."""
    found = load(RESULTS / 'benchmark_validation.json')
    rows = [
        [
            name,
            f'{one["seconds"]:.1f}',
            *(f'{value:.1f}' for value in found['accuracy'][name]),
            _ratio(found['ratios'].get(name)),
        ]
        for name, one in found['contestants'].items()
    ]
    head = ['', 'seconds', 'clean, %', 'PGD-10, %', 'time / m2at_mm']
    return markdown_table(head, rows)


def table_of_growth() -> str:
    """An iteration against one thing at a time."""
    rows = []
    for name, label in SERIES.items():
        points = sorted(
            (RESULTS / 'growth').glob(f'{name}_*.json'),
            key=lambda path: int(path.stem.partition('_')[2]),
        )
        for path in points:
            found = load(path)
            one = found['contestants']['m2at_mm']
            rows.append(
                [
                    f'[{label}](results/growth/{path.name})',
                    path.stem.partition('_')[2],
                    f'{1000 * one["seconds"]:.0f}',
                    f'{one["images_per_second"]:.1f}',
                    f'{found["settings"]["peak_resident_mib"]:.0f}',
                ]
            )
    head = ['', '', 'ms', 'images/s', 'peak memory of the process, MiB']
    return markdown_table(head, rows)


def sentence_on_exchange() -> str:
    """What two processes send each other."""
    longer, quick = (
        load(RESULTS / 'growth' / f'{name}_2.json')
        for name in ('processes', 'quick-processes')
    )
    sent = longer['all_reduce']
    shares = [
        100 * sent['seconds'] / one['contestants']['m2at_mm']['seconds']
        for one in (longer, quick)
    ]
    return (
        f'Summing {sent["bytes"] / 2**20:.1f} MiB of gradients over two '
        f'processes takes {1000 * sent["seconds"]:.1f} ms by\n'
        f'itself: {shares[0]:.1f} % of an iteration with PGD-10, '
        f'{shares[1]:.1f} % with PGD-1.\n'
    )


def table_of_changes() -> str:
    """Parts of an iteration, in each way."""
    default, kept = (
        load(RESULTS / f'{name}.json') for name in ('changes', 'changes_kept')
    )
    rows = []
    for part, label in (
        ('attack_step', 'attack step'),
        ('training_batch', 'reading and preparing a batch of 128'),
    ):
        for way, one in default[part]['contestants'].items():
            other = kept[part]['contestants'][way]
            rows.append(
                [
                    label,
                    way,
                    f'{1000 * one["seconds"]:.1f}',
                    _ratio(default[part]['ratios'].get(way)),
                    f'{1000 * other["seconds"]:.1f}',
                    _ratio(kept[part]['ratios'].get(way)),
                ]
            )
    head = ['', 'way', 'ms', 'time / the first']
    return markdown_table(
        [*head, 'ms, memory kept', 'time / the first'],
        rows,
    )


def sentence_on_start_up() -> str:
    """From PyTorch's import to the first iteration."""
    found = load(RESULTS / 'start_up.json')
    return (
        "From the end of PyTorch's own import to the first iteration of\n"
        f'`{found["config"]}` it takes '
        f'{found["seconds_to_first_iteration"]:.1f} s\n'
        '([figures](results/start_up.json)), much of it to read 50,000 image '
        'files.\n'
    )


def tables() -> dict[str, str]:
    """Each generated part of the page, by name."""
    return {
        'iterations': table_of_iterations(),
        'parts': table_of_parts(),
        'validation': table_of_validation(),
        'growth': table_of_growth(),
        'exchange': sentence_on_exchange(),
        'changes': table_of_changes(),
        'start-up': sentence_on_start_up(),
    }
