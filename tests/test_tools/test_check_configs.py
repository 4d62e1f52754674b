"""The check of mmpretrain's configs as a user starts it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tools_support import run_tool


def check(*words: Any, page: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """What it prints, and the outcomes by config."""
    output = run_tool('check_configs', *words, '--out', page)
    found = json.loads(page.with_suffix('.json').read_text())
    return output, {one['config']: one for one in found['configs']}


def test_page_and_figures_of_some_configs(tmp_path: Path) -> None:
    page = tmp_path / 'pages' / 'coverage.md'
    words = ('mobilenet-v3-small-050', 'arcface/', 'mobilenet_v2')
    output, found = check(*words, page=page)
    assert {name: one['status'] for name, one in found.items()} == {
        'arcface/resnet50-arcface_8xb32_inshop.py': 'refused',
        'mobilenet_v2/mobilenet-v2_8xb32_in1k.py': 'works',
        'mobilenet_v3/mobilenet-v3-small-050_8xb128_in1k.py': 'works',
    }
    refused, works, _ = found.values()
    assert 'retrieves images' in refused['note'] and works['note'] == ''
    assert (works['size'], works['model']) == (64, 'ImageClassifier')
    assert works['parameters'] == 3_504_872
    assert works['seconds'] > 0 and works['memory'] > 0.1
    assert '[3/3]' in output
    text = page.read_text()
    assert '2 of them with an ImageClassifier, of which 2 work' in text
    assert '| mobilenet_v2 | 1 |' in text
    assert 'mobilenet-v3-small-050 arcface/' in text  # the command


@pytest.mark.slow
def test_the_same_command_goes_on_where_it_was(tmp_path: Path) -> None:
    page = tmp_path / 'coverage.md'
    check('arcface/', 'csra/', page=page)
    figures = page.with_suffix('.json')
    found = json.loads(figures.read_text())
    first, second = found['configs']
    first['status'], second['note'] = 'fails', 'kept'
    figures.write_text(json.dumps(found))
    page.unlink()
    output, again = check('arcface/', 'csra/', page=page)
    assert output.count('[2/2]') == 1 and '[1/2]' not in output
    assert [one['status'] for one in again.values()] == ['refused'] * 2
    assert [one['note'] for one in again.values()][1] == 'kept'
    assert 'kept' in page.read_text()
    # Fewer configs don't take the others out of the file.
    assert check('csra/', page=page)[1].keys() == again.keys()
    # Those of another recipe are not mixed in.
    with pytest.raises(AssertionError, match='give another --out'):
        check('arcface/', '--recipe', 'pgd-at', page=page)


@pytest.mark.slow
def test_a_config_of_every_family(tmp_path: Path) -> None:
    _, found = check('--per-family', 1, page=tmp_path / 'coverage.md')
    assert len({name.split('/')[0] for name in found}) == len(found) > 80
    assert not any(one['status'] == 'fails' for one in found.values())
