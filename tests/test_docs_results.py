"""Tables of results are made of the files behind them."""

from __future__ import annotations

import json
import re
from pathlib import Path

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


def test_a_page_without_a_place_for_the_table_is_told() -> None:
    with pytest.raises(
        ValueError, match=r'no <!-- runs: make_results\.py -->'
    ):
        SCRIPT.fill('# Page', {'runs': '| a |'})
