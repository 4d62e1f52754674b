"""Tables of results are made of the files behind them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from docs_support import DOCS, load_script

from comparison.summary import summarise, to_markdown

SCRIPT = load_script('make_results')
RESULTS = DOCS / 'results'


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
        runs = json.loads(path.with_suffix('.json').read_text('utf-8'))
        assert tables == to_markdown(summarise(runs))


def test_every_evaluation_is_on_the_page() -> None:
    evaluated = [
        path
        for path in RESULTS.glob('*/*.json')
        if 'worst_case' in json.loads(path.read_text('utf-8'))
    ]
    shown = SCRIPT.experiments()
    folders = {path.parent.name for path in evaluated}
    assert folders <= set(shown)
    for folder in folders:
        count = sum(path.parent.name == folder for path in evaluated)
        assert count == sum(map(len, shown[folder].values()))


def test_a_new_comparison_is_picked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluation(clean: float, worst: float) -> dict[str, Any]:
        attacks = {'pgd20': worst + 2, 'cw20': worst}
        rest = dict(worst_case=worst, num_samples=100, alarms=[])
        return dict(clean=clean, attacks=attacks, **rest)

    runs = {
        'trades': [evaluation(50, 20), evaluation(52, 21)],
        'm2at': [evaluation(60, 10)],
    }
    (tmp_path / 'compare_narrow.json').write_text(json.dumps(runs))
    (tmp_path / 'compare_narrow.md').write_text('| method |')
    (tmp_path / 'compare_narrow.png').write_bytes(b'')
    monkeypatch.setattr(SCRIPT, 'RESULTS', tmp_path)
    (item,) = SCRIPT.experiments().items()
    part = SCRIPT.overview(*item)
    assert part.startswith(
        '## [All methods under one small budget](compare_narrow.md)\n'
    )
    assert (
        '| TRADES | 2 | 51.0 ± 1.0 | 22.5 ± 0.5 | 20.5 ± 0.5 | 2.0 |' in part
    )
    assert '| M2AT | 1 | 60.0 | 12.0 | 10.0 | 2.0 |' in part
    assert '(compare_narrow.png)' in part
    assert '| 51.0 | 20.5 |' in SCRIPT.table_of_method('trades')


def test_a_page_without_a_place_for_the_table_is_told() -> None:
    with pytest.raises(
        ValueError, match=r'no <!-- runs: make_results\.py -->'
    ):
        SCRIPT.fill('# Page', {'runs': '| a |'})
