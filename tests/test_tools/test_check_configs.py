"""The check of mmpretrain's configs as a user starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tools_support import ROOT, clean_env, run_tool


def outcomes(page: Path) -> dict[str, dict[str, Any]]:
    found = json.loads(page.with_suffix('.json').read_text())
    return {one['config']: one for one in found['configs']}


def test_page_and_figures_of_some_configs(tmp_path: Path) -> None:
    page = tmp_path / 'pages' / 'coverage.md'
    output = run_tool(
        'check_configs',
        'mobilenet-v3-small-050',
        'arcface/',
        'mobilenet_v2',
        '--out',
        page,
    )
    found = outcomes(page)
    assert {name: one['status'] for name, one in found.items()} == {
        'arcface/resnet50-arcface_8xb32_inshop.py': 'refused',
        'mobilenet_v2/mobilenet-v2_8xb32_in1k.py': 'works',
        'mobilenet_v3/mobilenet-v3-small-050_8xb128_in1k.py': 'works',
    }
    assert '[3/3]' in output
    text = page.read_text()
    assert '2 of them with an ImageClassifier, of which 2 work' in text
    assert '| mobilenet_v2 | 1 |' in text
    assert 'mobilenet-v3-small-050 arcface/' in text  # the command


def test_the_same_command_goes_on_where_it_was(tmp_path: Path) -> None:
    page = tmp_path / 'coverage.md'
    words = ['arcface/', 'csra/', '--out', page]
    run_tool('check_configs', *words)
    figures = page.with_suffix('.json')
    found = json.loads(figures.read_text())
    first, second = found['configs']
    first['status'], second['note'] = 'fails', 'kept'
    figures.write_text(json.dumps(found))
    page.unlink()
    output = run_tool('check_configs', *words)
    assert [line for line in output.splitlines() if '[2/2]' in line]
    again = outcomes(page)
    assert [one['status'] for one in again.values()] == ['refused'] * 2
    assert list(again.values())[1]['note'] == 'kept'
    assert 'kept' in page.read_text()
    # Fewer configs don't take the others out of the file.
    run_tool('check_configs', 'csra/', '--out', page)
    assert outcomes(page).keys() == again.keys()


def test_outcomes_of_another_recipe_are_not_mixed_in(tmp_path: Path) -> None:
    page = tmp_path / 'coverage.md'
    run_tool('check_configs', 'arcface/', '--out', page)
    with pytest.raises(AssertionError, match='give another --out'):
        run_tool(
            'check_configs', 'arcface/', '--recipe', 'pgd-at', '--out', page
        )


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['no-such-config'], "no config of mmpretrain has one of ['no-such"),
        (['resnet18', '--images', '/nowhere'], '/nowhere has no folders'),
    ],
)
def test_wrong_arguments_end_at_once(words: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tools' / 'check_configs.py'), *words],
        capture_output=True,
        text=True,
        env=clean_env(),
    )
    assert done.returncode != 0
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_config_of_every_family(tmp_path: Path) -> None:
    page = tmp_path / 'coverage.md'
    run_tool('check_configs', '--per-family', 1, '--out', page)
    found = outcomes(page)
    assert len({name.split('/')[0] for name in found}) == len(found) > 80
    assert not any(one['status'] == 'fails' for one in found.values())
