"""The comparison: as a user starts it, its plan, and its table."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tools_support import DIGITS, ROOT, TINY, run_tool

from comparison.plan import Plan, load_plan
from comparison.summary import pareto_front, summarise, to_markdown

PLAN = f"""
seeds = [0]
common = {TINY!r}
common.update({{'train_dataloader.dataset.indices': 64,
                'train_cfg.max_epochs': 1}})
evaluation = dict(attacks=['fgsm'], num_samples=30, eps='4/255')
runs = {{'m2at': dict(config={str(DIGITS)!r},
                     dial={{'model.method.scale': [1.0, 2.0]}}),
        'pgd-at': dict(config={str(DIGITS)!r},
                       options={{'model.method._delete_': True,
                                'model.method.type': 'm2at_mm.PGDAT'}})}}
"""


@pytest.mark.slow
def test_two_methods_and_resume(tmp_path: Path) -> None:
    plan = tmp_path / 'plan.py'
    plan.write_text(PLAN)
    out = tmp_path / 'new' / 'out'
    words = [plan, '--work-dir', tmp_path / 'runs', '--out', out]
    printed = run_tool('compare', *words)
    assert (
        'm2at_1.0_seed0: done' in printed and '| m2at | m2at_1.0, ' in printed
    )
    assert '| pgd-at | 1 |' in out.with_suffix('.md').read_text()
    picture = Image.open(out.with_suffix('.png')).convert('RGB')
    assert len(picture.getcolors(1 << 20)) > 50
    assert picture.size == pytest.approx((960, 600), abs=2)
    found = json.loads(out.with_suffix('.json').read_text())
    run = found['m2at_2.0'][0]
    assert run['num_samples'] == 30 and run['validation']['best'] >= 0
    assert run['threat_model']['eps'] == pytest.approx(4 / 255)
    curves = json.loads(out.with_name('out.curves.json').read_text())
    assert curves['curves'].keys() == {'m2at'}

    logs = sorted((tmp_path / 'runs').glob('*/*.txt'))
    before = [path.read_text() for path in logs]
    run_tool('compare', *words)
    assert [path.read_text() for path in logs] == before  # nothing again


def plan_of(folder: Path, text: str) -> Plan:
    path = folder / 'plan.py'
    path.write_text(text)
    return load_plan(path)


def test_runs_by_seed(tmp_path: Path) -> None:
    text = "_x = 'x.py'\nseeds = [3, 4]\ncommon = {'a.b': 1, 'c': 2}\n"
    text += "runs = {'pgd-at': dict(config=_x), 'm2at': dict("
    text += "config='y.py', recipe='m2at', options={'c': 5})}\n"
    runs = list(plan := plan_of(tmp_path, text))
    folders = 'pgd-at_seed3 m2at_seed3 pgd-at_seed4 m2at_seed4'
    assert ' '.join(run.folder for run in runs) == folders
    assert runs[0].options == {'a.b': 1, 'c': 2}
    assert runs[1].options == {'a.b': 1, 'c': 5}
    assert runs[1].recipe == 'm2at' and runs[0].recipe is None
    assert plan.checkpoint == 'best'


def test_points_of_a_dial(tmp_path: Path) -> None:
    text = "seeds = [0, 1]\nruns = {'a': dict(config='x', options={'c': 1}, "
    text += "seeds=[5], dial={'c': ['2/255', '4/255'], 'd': [8, 9]}), "
    text += "'b': dict(config='x')}\n"
    runs = list(plan_of(tmp_path, text))
    folders = 'a_2-255_seed5 a_4-255_seed5 b_seed0 b_seed1'
    assert ' '.join(run.folder for run in runs) == folders
    assert [run.curve for run in runs] == ['a', 'a', None, None]
    assert runs[1].options == {'c': '4/255', 'd': 9}


@pytest.mark.parametrize('name', ['compare_narrow', 'search_narrow'])
def test_shipped_plans_are_those_of_their_results(name: str) -> None:
    path = ROOT / 'docs' / 'results' / name
    runs = list(load_plan(path.with_suffix('.py')))
    results = json.loads(path.with_suffix('.json').read_text('utf-8'))
    found = {(name, one['seed']) for name in results for one in results[name]}
    assert found == {(run.name, run.seed) for run in runs}
    assert all((ROOT / run.config).is_file() for run in runs)


RUNS = "runs = dict(a=dict(config='x'))\n"


WRONG_PLANS = [
    (RUNS + 'foo = 1', 'a plan needs runs'),
    ('runs = dict(a=dict(recipe="x"))', "run 'a' .* needs config"),
    (
        'runs = dict(a=dict(config="x", dial=dict(b=[1], c=[1, 2])))',
        "dial of run 'a' .* one value a point",
    ),
    (RUNS + "checkpoint = 'first'", "checkpoint='first'"),
    (RUNS + "evaluation = dict(attacks=['pgd7'])", r"\['pgd7'\] are unkn"),
]


@pytest.mark.parametrize(('text', 'message'), WRONG_PLANS)
def test_wrong_plans(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(tmp_path, text)


def _run(clean: float, pgd: float, worst: float) -> dict[str, Any]:
    return dict(clean=clean, attacks=dict(pgd20=pgd), worst_case=worst)


RESULTS = {
    'standard': [_run(90, 1, 0)],
    'pgd-at': [_run(80, 50, 46), _run(82, 52, 48)],
    'mart': [_run(78, 56, 45)],  # good under PGD alone
    'm2at': [_run(84, 51, 46)],
    'none': [],
    'm2at again': [_run(84, 51, 46)],
}
ENTRIES = summarise(RESULTS)


def test_table_and_fronts() -> None:
    for figure, best in (('worst_case', 'pgd-at'), ('pgd20', 'mart')):
        front = [best, 'm2at', 'm2at again', 'standard']
        assert pareto_front(ENTRIES, figure) == front
    assert to_markdown(ENTRIES).splitlines() == [
        '| method | seeds | clean | pgd20 | worst_case | on the front of |',
        '| --- | --- | --- | --- | --- | --- |',
        '| standard | 1 | 90.0 | 1.0 | 0.0 | pgd20, worst_case |',
        '| pgd-at | 2 | 81.0 ± 1.0 | 51.0 ± 1.0 | 47.0 ± 1.0 | worst_case |',
        '| mart | 1 | 78.0 | 56.0 | 45.0 | pgd20 |',
        '| m2at | 1 | 84.0 | 51.0 | 46.0 | pgd20, worst_case |',
        '| m2at again | 1 | 84.0 | 51.0 | 46.0 | pgd20, worst_case |',
    ]
