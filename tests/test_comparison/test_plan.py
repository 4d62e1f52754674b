from __future__ import annotations

import json
from pathlib import Path

import pytest

from m2at_mm.comparison import load_plan


def _plan(folder: Path, text: str) -> Path:
    path = folder / 'plan.py'
    path.write_text(text)
    return path


def test_runs_by_seed(tmp_path: Path) -> None:
    plan = load_plan(
        _plan(
            tmp_path,
            "_x = 'x.py'\nseeds = [3, 4]\ncommon = {'a.b': 1, 'c': 2}\n"
            "runs = {'pgd-at': dict(config=_x), 'm2at': dict("
            "config='y.py', recipe='m2at', options={'c': 5})}\n",
        )
    )
    runs = list(plan)
    assert [run.folder for run in runs] == [
        'pgd-at_seed3',
        'm2at_seed3',
        'pgd-at_seed4',
        'm2at_seed4',
    ]
    assert runs[0].options == {'a.b': 1, 'c': 2}
    assert runs[1].options == {'a.b': 1, 'c': 5}
    assert runs[1].recipe == 'm2at' and runs[0].recipe is None
    assert plan.checkpoint == 'best'


@pytest.mark.parametrize('name', ['compare_narrow', 'search_narrow'])
def test_shipped_plans_are_those_of_their_results(name: str) -> None:
    folder = Path(__file__).resolve().parents[2] / 'docs' / 'results'
    runs = list(load_plan(folder / f'{name}.py'))
    results = json.loads((folder / f'{name}.json').read_text('utf-8'))
    found = {
        (method, one['seed']) for method in results for one in results[method]
    }
    assert found == {(run.name, run.seed) for run in runs}
    for run in runs:
        assert (folder.parents[1] / run.config).is_file()


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('seeds = [0]\n', 'a plan needs runs'),
        ("runs = dict(a=dict(config='x'))\nfoo = 1\n", 'a plan needs runs'),
        ('runs = dict(a=dict(recipe="x"))\n', "run 'a' .* needs config"),
        (
            "runs = dict(a=dict(config='x'))\ncheckpoint = 'first'\n",
            "checkpoint='first'",
        ),
        (
            "runs = dict(a=dict(config='x'))\n"
            "evaluation = dict(attacks=['pgd7'])\n",
            r"\['pgd7'\] are unknown",
        ),
    ],
    ids=['no-runs', 'key', 'run', 'checkpoint', 'attack'],
)
def test_wrong_plans(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_plan(_plan(tmp_path, text))
