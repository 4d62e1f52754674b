from __future__ import annotations

import json
from pathlib import Path

import pytest
from tools_support import ROOT

from comparison.plan import Plan, load_plan


def plan_of(folder: Path, text: str) -> Plan:
    path = folder / 'plan.py'
    path.write_text(text)
    return load_plan(path)


def test_runs_by_seed(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        "_x = 'x.py'\nseeds = [3, 4]\ncommon = {'a.b': 1, 'c': 2}\n"
        "runs = {'pgd-at': dict(config=_x), 'm2at': dict("
        "config='y.py', recipe='m2at', options={'c': 5})}\n",
    )
    runs = list(plan)
    assert [run.folder for run in runs] == [
        *('pgd-at_seed3', 'm2at_seed3', 'pgd-at_seed4', 'm2at_seed4')
    ]
    assert runs[0].options == {'a.b': 1, 'c': 2}
    assert runs[1].options == {'a.b': 1, 'c': 5}
    assert runs[1].recipe == 'm2at' and runs[0].recipe is None
    assert plan.checkpoint == 'best'


@pytest.mark.parametrize('name', ['compare_narrow', 'search_narrow'])
def test_shipped_plans_are_those_of_their_results(name: str) -> None:
    path = ROOT / 'docs' / 'results' / name
    runs = list(load_plan(path.with_suffix('.py')))
    results = json.loads(path.with_suffix('.json').read_text('utf-8'))
    found = {
        (method, one['seed']) for method in results for one in results[method]
    }
    assert found == {(run.name, run.seed) for run in runs}
    assert all((ROOT / run.config).is_file() for run in runs)


RUNS = "runs = dict(a=dict(config='x'))\n"


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (RUNS + 'foo = 1', 'a plan needs runs'),
        ('runs = dict(a=dict(recipe="x"))', "run 'a' .* needs config"),
        (RUNS + "checkpoint = 'first'", "checkpoint='first'"),
        (RUNS + "evaluation = dict(attacks=['pgd7'])", r"\['pgd7'\] are unkn"),
    ],
)
def test_wrong_plans(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(tmp_path, text)
