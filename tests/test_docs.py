"""Figures in the documents are those of the files behind them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from digits_runner import build_digits_runner
from mmengine.config import Config

RESULTS = Path(__file__).resolve().parents[1] / 'docs' / 'results'
NARROW = {
    'standard': 'standard',
    'PGD-AT': 'pgd-at',
    'M2AT, scale 1, perturbed_label 0.5': 'm2at_scale1.0_label0.5',
    'M2AT, scale 1.5, perturbed_label 0.7': 'm2at_scale1.5_label0.7',
    'M2AT, scale 2, perturbed_label 0.8': 'm2at_scale2.0_label0.8',
}
FULL = {
    'undefended': 'undefended',
    'plain robust': 'plain_robust',
    **{key: NARROW[key] for key in NARROW if key != 'standard'},
}
FULL_ATTACKS = ['fgsm', 'pgd20', 'pgd100', 'cw20', 'cw100', 'autoattack']


def _rows(document: str) -> list[list[str]]:
    """Cells of the table's rows, without head and rule."""
    lines = (RESULTS / document).read_text('utf-8').splitlines()
    rows = [line for line in lines if line.startswith('|')]
    return [[cell.strip() for cell in row[1:-1].split('|')] for row in rows][
        2:
    ]


def _load(path: str) -> dict[str, Any]:
    return json.loads((RESULTS / path).read_text('utf-8'))


def _shown(values: list[float]) -> list[str]:
    return [f'{value:.1f}' for value in values]


@pytest.mark.parametrize(
    'row', _rows('narrow_resnet18_12e.md'), ids=lambda row: '-'.join(row[:2])
)
def test_narrow_runs(row: list[str]) -> None:
    name, seed, *figures = row
    run = _load(f'narrow_resnet18_12e/{NARROW[name]}_seed{seed}.json')
    attacks = run['attacks']
    assert figures == _shown(
        [run['clean'], attacks['pgd20'], attacks['cw20'], run['worst_case']]
    )


def test_every_narrow_run_is_in_the_table() -> None:
    files = list((RESULTS / 'narrow_resnet18_12e').glob('*.json'))
    assert len(files) == len(_rows('narrow_resnet18_12e.md')) == 10


@pytest.mark.parametrize(
    'row', _rows('full_evaluation.md'), ids=lambda row: row[0]
)
def test_full_evaluation(row: list[str]) -> None:
    name, *figures = row
    run = _load(f'full_evaluation/{FULL[name]}.json')
    attacks = [run['attacks'][attack] for attack in FULL_ATTACKS]
    assert figures == _shown(
        [
            run['clean'],
            *attacks,
            run['worst_case'],
            run['pgd_minus_autoattack'],
        ]
    )
    assert run['alarms'] == []


def test_links_between_documents_lead_somewhere() -> None:
    root = RESULTS.parents[1]
    documents = [root / 'README.md', *(root / 'docs').rglob('*.md')]
    for document in documents:
        for target in re.findall(
            r'\]\((?!https?:)([^)#]+)', document.read_text('utf-8')
        ):
            assert (document.parent / target.strip()).exists(), (
                document,
                target,
            )


def test_coverage_counts_are_those_of_its_figures() -> None:
    docs = RESULTS.parent
    configs = json.loads((docs / 'coverage.json').read_text('utf-8'))[
        'configs'
    ]
    page = (docs / 'coverage.md').read_text('utf-8')
    for status in ('works', 'refused', 'upstream', 'fails'):
        count = sum(one['status'] == status for one in configs)
        assert f'| {status} | {count} |' in page
    stock = [one for one in configs if one['model'] == 'ImageClassifier']
    works = sum(one['status'] == 'works' for one in stock)
    assert (
        f'{len(stock)} of them with an ImageClassifier, of which {works} work'
        in ' '.join(page.split())
    )
    assert not any(one['status'] == 'fails' for one in configs)


@pytest.mark.parametrize(
    ('row', 'name'), zip(_rows('finetune.md'), ('stock', 'm2at-finetune'))
)
def test_fine_tuning(row: list[str], name: str) -> None:
    run = _load(f'finetune/{name}.json')
    attacks = [
        run['attacks'][attack]
        for attack in ('pgd20', 'cw20', 'apgd-ce', 'apgd-t')
    ]
    assert row[1:] == _shown([run['clean'], *attacks, run['worst_case']])
    assert run['num_samples'] == 1000 and run['alarms'] == []


def test_every_fine_tuned_network_is_in_the_table() -> None:
    files = list((RESULTS / 'finetune').glob('*.json'))
    assert len(files) == len(_rows('finetune.md')) == 2


def test_hooks_of_the_documents_train(tmp_path: Path) -> None:
    text = (RESULTS.parent / 'your_config.md').read_text('utf-8')
    _, _, rest = text.partition('## Schedules and a guard')
    block = re.search(r'```python\n(.*?)```', rest, re.DOTALL)
    assert block is not None
    hooks = Config.fromstring(block.group(1), file_format='.py').default_hooks
    assert set(hooks) == {'attack_schedule', 'guard'}
    runner = build_digits_runner(tmp_path, 10, default_hooks=hooks)
    runner.train()
    assert runner.model.threat_model.eps == pytest.approx(2.6 / 255)


def test_pictures_of_the_documents(tmp_path: Path) -> None:
    text = (RESULTS.parent / 'your_config.md').read_text('utf-8')
    _, _, rest = text.partition('## Pictures')
    block = re.search(r'```python\n(.*?)```', rest, re.DOTALL)
    assert block is not None
    hooks = Config.fromstring(block.group(1), file_format='.py').default_hooks
    hooks.pictures.update(interval=1, num_images=4)
    build_digits_runner(tmp_path, 10, default_hooks=hooks).train()
    assert len(list(tmp_path.glob('*/vis_data/vis_image/*.png'))) == 1
    shown = re.findall(r'\((images/[^)]*)\)', rest)
    assert len(shown) == 2
    for name in shown:
        assert f'--out docs/{name}' in rest
        assert (RESULTS.parent / name).stat().st_size < 300_000


def test_interrupted_trainings_are_all_equal() -> None:
    trials = [
        trial
        for name in ('epochs', 'iterations')
        for trial in json.loads(
            (RESULTS / f'interruptions_{name}.json').read_text('utf-8')
        )
    ]
    assert len(trials) == 20
    assert all(trial['differs'] == [] for trial in trials)
    writing = sum(trial['writing'] for trial in trials)
    page = (RESULTS.parent / 'interruptions.md').read_text('utf-8')
    assert f'20 trainings, {writing} of them killed while' in ' '.join(
        page.split()
    )


COLUMNS = ('clean', 'fgsm', 'pgd')


def test_collapse_table_is_of_its_figures() -> None:
    runs = _load('collapse.json')
    assert runs['pgd-at']['errors'] == []
    (said, *_) = runs['fast-at']['errors']
    assert said.startswith('catastrophic overfitting')
    expected = [
        [str(epoch + 1), *_shown([run[k][epoch] for k in COLUMNS])]
        for run in (runs['fast-at'], runs['pgd-at'])
        for epoch in range(len(run['clean']))
    ]
    assert [row[1:5] for row in _rows('collapse.md')] == expected
