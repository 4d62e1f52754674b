"""Figures and configs of the documents are those of the files behind them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from digits_runner import build_digits_runner
from docs_support import DOCS, PAGES, numbers
from mmengine.config import Config

RESULTS = DOCS / 'results'
# Pages with a table of figures as measured, by the files behind them.
MEASURED = {
    'narrow_resnet18_12e': 'narrow_resnet18_12e/*.json',
    'full_evaluation': 'full_evaluation/*.json',
    'finetune': 'finetune/*.json',
    'collapse': 'collapse.json',
}


def _load(path: Path) -> Any:
    return json.loads(path.read_text('utf-8'))


def _words(page: str) -> str:
    return ' '.join((DOCS / page).read_text('utf-8').split())


@pytest.mark.parametrize('page', MEASURED)
def test_every_figure_of_a_table_was_measured(page: str) -> None:
    files = list(RESULTS.glob(MEASURED[page]))
    measured = {f'{n:.1f}' for file in files for n in numbers(_load(file))}
    table = re.findall(r'^\|.*', (RESULTS / f'{page}.md').read_text(), re.M)
    figures = re.findall(r'(?<=\| )-?\d+\.\d(?= \|)', ' '.join(table))
    assert len(figures) >= 10 and set(figures) <= measured
    if page != 'collapse':
        assert len(table) == len(files) + 2
    if page in ('full_evaluation', 'finetune'):
        assert all(_load(file)['alarms'] == [] for file in files)


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
    if not pictures:
        assert set(hooks) == {'attack_schedule', 'guard'}
        assert runner.model.threat_model.eps == pytest.approx(2.6 / 255)
