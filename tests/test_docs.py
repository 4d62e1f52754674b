"""Figures and configs of the documents are those of the files behind them."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from digits_runner import build_digits_runner
from mmengine.config import Config
from tools_support import DOCS, PAGES, load_script

from comparison.summary import summarise, to_markdown

SCRIPT = load_script('make_results')
RESULTS = DOCS / 'results'
# Attacks of each page's table, between clean accuracy and worst case.
ATTACKS = {
    'narrow_resnet18_12e': 'pgd20 cw20',
    'full_evaluation': 'fgsm pgd20 pgd100 cw20 cw100 autoattack',
    'finetune': 'pgd20 cw20 apgd-ce apgd-t',
}


def _load(path: Path) -> Any:
    return json.loads(path.read_text('utf-8'))


def _words(page: str) -> str:
    return ' '.join((DOCS / page).read_text('utf-8').split())


def _rows(page: str) -> list[list[str]]:
    """Cells of the table's rows, without head and rule."""
    text = (RESULTS / f'{page}.md').read_text()
    _, _, *rows = re.findall(r'^\|(.*)\|$', text, re.M)
    return [[cell.strip() for cell in row.split('|')] for row in rows]


def _file(name: str) -> str:
    """The file of a network that a table names."""
    m2at = re.fullmatch('M2AT, scale (.*), perturbed_label (.*)', name)
    if m2at:
        return f'm2at_scale{float(m2at[1])}_label{m2at[2]}'
    return name.lower().replace(' ', '_')


def _shown(values: Iterable[float]) -> list[str]:
    return [f'{value:.1f}' for value in values]


@pytest.mark.parametrize('page', ATTACKS)
def test_each_row_is_of_its_file(page: str) -> None:
    rows = _rows(page)
    assert len(rows) == len([*(RESULTS / page).glob('*.json')])
    for name, *figures in rows:
        file = _file(name)
        if page == 'narrow_resnet18_12e':
            file = f'{file}_seed{figures.pop(0)}'
        elif page == 'finetune':
            first = name == rows[0][0]
            file = 'stock' if first else 'm2at-finetune'
        run = _load(RESULTS / page / f'{file}.json')
        attacks = [run['attacks'][one] for one in ATTACKS[page].split()]
        expected = [run['clean'], *attacks, run['worst_case']]
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
    expected = []
    for run in (runs['fast-at'], runs['pgd-at']):
        figures = zip(run['clean'], run['fgsm'], run['pgd'])
        rows = enumerate(map(_shown, figures), 1)
        expected += [[str(epoch), *row] for epoch, row in rows]
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
    assert count == 0  # of those that fail
    stock = [one for one in configs if one['model'] == 'ImageClassifier']
    works = sum(one['status'] == 'works' for one in stock)
    assert f'{len(stock)} of them with an ImageClassifier' in page
    assert f'of which {works} work' in page


def test_interrupted_trainings_are_all_equal() -> None:
    files = RESULTS.glob('interruptions_*.json')
    trials = [trial for file in files for trial in _load(file)]
    assert [trial['differs'] for trial in trials] == [[]] * 20
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
        one, other = re.findall(r'\((images/[^)]*)\)', rest)
        for name in (one, other):
            assert f'--out docs/{name}' in rest
            assert (DOCS / name).stat().st_size < 300_000
    else:
        assert set(hooks) == {'attack_schedule', 'guard'}
        assert runner.model.threat_model.eps == pytest.approx(2.6 / 255)


@pytest.mark.parametrize(
    'path', SCRIPT.tables(), ids=lambda path: str(path.relative_to(DOCS))
)
def test_tables_are_up_to_date(path: Path) -> None:
    text = path.read_text('utf-8')
    assert SCRIPT.fill(text, SCRIPT.tables()[path]) == text, (
        'run `python docs/scripts/make_results.py`'
    )


@pytest.mark.parametrize(
    'path', sorted(RESULTS.glob('*.md')), ids=lambda path: path.stem
)
def test_no_table_is_typed(path: Path) -> None:
    """Each is generated, or what tools/compare.py wrote."""
    text = path.read_text('utf-8')
    typed = re.sub(r'<!-- (\w+): .*?<!-- /\1 -->', '', text, flags=re.DOTALL)
    tables = ''.join(re.findall(r'^\|.*\n', typed, re.MULTILINE))
    if tables:
        runs = _load(path.with_suffix('.json'))
        assert tables == to_markdown(summarise(runs))


def test_every_evaluation_is_on_the_page() -> None:
    files = [*RESULTS.glob('*/*.json')]
    evaluated = [path for path in files if 'worst_case' in _load(path)]
    shown = SCRIPT.experiments()
    folders = {path.parent.name for path in evaluated}
    assert folders <= set(shown)
    for folder in folders:
        count = sum(path.parent.name == folder for path in evaluated)
        assert count == sum(map(len, shown[folder].values()))


def test_a_new_comparison_is_shown(tmp_path: Path, monkeypatch: Any) -> None:
    def evaluation(clean: float, worst: float) -> dict[str, Any]:
        attacks = {'pgd20': worst + 2, 'cw20': worst}
        rest = dict(worst_case=worst, num_samples=100, alarms=[])
        return dict(clean=clean, attacks=attacks, **rest)

    trades = [evaluation(50, 20), evaluation(52, 21)]
    runs = dict(trades=trades, m2at=[evaluation(60, 10)])
    (tmp_path / 'compare_narrow.json').write_text(json.dumps(runs))
    (tmp_path / 'compare_narrow.md').write_text('| method |')
    (tmp_path / 'compare_narrow.png').write_bytes(b'')
    monkeypatch.setattr(SCRIPT, 'RESULTS', tmp_path)
    (item,) = SCRIPT.experiments().items()
    part = SCRIPT.overview(*item)
    title = '[All methods under one small budget](compare_narrow.md)'
    assert part.startswith(f'## {title}\n')
    row = '| TRADES | 2 | 51.0 ± 1.0 | 22.5 ± 0.5 | 20.5 ± 0.5 | 2.0 |'
    shown = '| M2AT, scale 1.5 | 1 | 60.0 | 12.0 | 10.0 | 2.0 |'
    assert row in part and shown in part
    assert '(compare_narrow.png)' in part
    assert '| 51.0 | 20.5 |' in SCRIPT.table_of_method('trades')


def test_a_page_without_a_place_for_the_table_is_told() -> None:
    with pytest.raises(ValueError, match=r'no <!-- runs: make_results\.py'):
        SCRIPT.fill('# Page', {'runs': '| a |'})
