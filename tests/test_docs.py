"""Figures and configs of the documents are those of the files behind them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from digits_runner import build_digits_runner
from docs_support import DOCS, PAGES
from mmengine.config import Config

RESULTS = DOCS / 'results'
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
FINETUNE = ('stock', 'm2at-finetune')
# Attacks of each page's table, between clean accuracy and worst case.
ATTACKS = {
    'narrow_resnet18_12e': ('pgd20', 'cw20'),
    'full_evaluation': tuple(
        'fgsm pgd20 pgd100 cw20 cw100 autoattack'.split()
    ),
    'finetune': ('pgd20', 'cw20', 'apgd-ce', 'apgd-t'),
}


def _load(path: Path) -> Any:
    return json.loads(path.read_text('utf-8'))


def _words(page: str) -> str:
    return ' '.join((DOCS / page).read_text('utf-8').split())


def _rows(page: str) -> list[list[str]]:
    """Cells of the table's rows, without head and rule."""
    lines = re.findall(r'^\|.*', (RESULTS / f'{page}.md').read_text(), re.M)
    return [[cell.strip() for cell in row[1:-1].split('|')] for row in lines][
        2:
    ]


def _shown(values: list[float]) -> list[str]:
    return [f'{value:.1f}' for value in values]


@pytest.mark.parametrize('page', ATTACKS)
def test_each_row_is_of_its_file(page: str) -> None:
    rows = _rows(page)
    assert len(rows) == len([*(RESULTS / page).glob('*.json')])
    for number, (name, *figures) in enumerate(rows):
        file = NARROW.get(name)
        if page == 'narrow_resnet18_12e':
            file = f'{file}_seed{figures.pop(0)}'
        elif page == 'full_evaluation':
            file = FULL[name]
        else:
            file = FINETUNE[number]
        run = _load(RESULTS / page / f'{file}.json')
        expected = [run['clean'], *(run['attacks'][a] for a in ATTACKS[page])]
        expected.append(run['worst_case'])
        if page == 'full_evaluation':
            expected.append(run['pgd_minus_autoattack'])
        assert figures == _shown(expected), name
        if page != 'narrow_resnet18_12e':
            assert run['alarms'] == []
        if page == 'finetune':
            assert run['num_samples'] == 1000


def test_collapse_table_is_of_its_figures() -> None:
    runs = _load(RESULTS / 'collapse.json')
    assert runs['pgd-at']['errors'] == []
    assert runs['fast-at']['errors'][0].startswith('catastrophic overfitting')
    expected = [
        [
            str(epoch + 1),
            *_shown([run[key][epoch] for key in ('clean', 'fgsm', 'pgd')]),
        ]
        for run in (runs['fast-at'], runs['pgd-at'])
        for epoch in range(len(run['clean']))
    ]
    assert [row[1:5] for row in _rows('collapse')] == expected


def test_links_between_documents_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r'\]\((?!https?:)([^)#]+)', page.read_text()):
            assert (page.parent / target.strip()).exists(), (page, target)


def test_coverage_counts_are_those_of_its_figures() -> None:
    configs = _load(DOCS / 'coverage.json')['configs']
    page = _words('coverage.md')
    for status in ('works', 'refused', 'upstream', 'fails'):
        count = sum(one['status'] == status for one in configs)
        assert f'| {status} | {count} |' in page
    stock = [one for one in configs if one['model'] == 'ImageClassifier']
    works = sum(one['status'] == 'works' for one in stock)
    assert f'{len(stock)} of them with an ImageClassifier' in page
    assert f'of which {works} work' in page
    assert not any(one['status'] == 'fails' for one in configs)


def test_interrupted_trainings_are_all_equal() -> None:
    files = RESULTS.glob('interruptions_*.json')
    trials = [trial for file in files for trial in _load(file)]
    assert len(trials) == 20
    assert all(trial['differs'] == [] for trial in trials)
    writing = sum(trial['writing'] for trial in trials)
    said = f'20 trainings, {writing} of them killed while'
    assert said in _words('interruptions.md')


@pytest.mark.parametrize('heading', ['Schedules and a guard', 'Pictures'])
def test_hooks_of_the_documents_train(heading: str, tmp_path: Path) -> None:
    text = (DOCS / 'your_config.md').read_text('utf-8')
    _, _, rest = text.partition(f'## {heading}')
    block = re.search(r'```python\n(.*?)```', rest, re.DOTALL)
    assert block is not None
    hooks = Config.fromstring(block[1], file_format='.py').default_hooks
    if 'pictures' in hooks:
        hooks.pictures.update(interval=1, num_images=4)
    runner = build_digits_runner(tmp_path, 10, default_hooks=hooks)
    runner.train()
    pictures = list(tmp_path.glob('*/vis_data/vis_image/*.png'))
    assert len(pictures) == ('pictures' in hooks)
    if pictures:
        shown = re.findall(r'\((images/[^)]*)\)', rest)
        assert len(shown) == 2
        for name in shown:
            assert f'--out docs/{name}' in rest
            assert (DOCS / name).stat().st_size < 300_000
    else:
        assert set(hooks) == {'attack_schedule', 'guard'}
        assert runner.model.threat_model.eps == pytest.approx(2.6 / 255)
