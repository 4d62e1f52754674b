"""The comparison: as a user starts it, its plan, and its table."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tools_support import DIGITS, ROOT, TINY, run_tool

from comparison import summary
from comparison.plan import Plan, load_plan
from comparison.summary import correct_images, hypervolume, make_curves

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
    for told in ('m2at_1.0_seed0: done', '| m2at | m2at_1.0, '):
        assert told in printed
    assert '| pgd-at | 1 |' in out.with_suffix('.md').read_text()
    picture = Image.open(out.with_suffix('.png')).convert('RGB')
    assert len(picture.getcolors(1 << 20)) > 50
    assert picture.size == pytest.approx((960, 600), abs=2)
    found = json.loads(out.with_suffix('.json').read_text())
    run = found['m2at_2.0'][0]
    validation = run['validation']
    assert run['num_samples'] == 30 and validation['best'] >= 0
    for clean, robust in validation['curve'].values():
        assert 0 <= robust <= clean <= 100
    assert robust == validation['last']
    assert run['threat_model']['eps'] == pytest.approx(4 / 255)
    curves = json.loads(out.with_name('out.curves.json').read_text())
    assert curves['curves'].keys() == {'m2at'}

    logs = sorted((tmp_path / 'runs').glob('*/*.txt'))
    before = [path.read_text() for path in logs]
    run_tool('compare', *words)
    assert [path.read_text() for path in logs] == before  # nothing again

    # An evaluation of other images, as of another test set.
    path = tmp_path / 'runs' / 'm2at_2.0_seed0' / 'results.json'
    run = json.loads(path.read_text())
    run['settings']['images'] = 'another'
    path.write_text(json.dumps(run))
    printed = run_tool('compare', *words)
    assert 'The evaluations differ in images: do not compare' in printed
    assert 'hypervolume' not in printed


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
ENTRIES = summary.summarise(RESULTS)


def test_table_and_fronts() -> None:
    for figure, best in (('worst_case', 'pgd-at'), ('pgd20', 'mart')):
        front = [best, 'm2at', 'm2at again', 'standard']
        assert summary.pareto_front(ENTRIES, figure) == front
    assert summary.to_markdown(ENTRIES).splitlines() == [
        '| method | seeds | clean | pgd20 | worst_case | on the front of |',
        '| --- | --- | --- | --- | --- | --- |',
        '| standard | 1 | 90.0 | 1.0 | 0.0 | pgd20, worst_case |',
        '| pgd-at | 2 | 81.0 ± 1.0 | 51.0 ± 1.0 | 47.0 ± 1.0 | worst_case |',
        '| mart | 1 | 78.0 | 56.0 | 45.0 | pgd20 |',
        '| m2at | 1 | 84.0 | 51.0 | 46.0 | pgd20, worst_case |',
        '| m2at again | 1 | 84.0 | 51.0 | 46.0 | pgd20, worst_case |',
    ]


AREAS = [
    ([(60, 30)], 30.0),
    ([(50, 30)], 15.0),  # nothing for the upper half
    ([(40, 30)], 0.0),
    ([(30, 50), (60, 30)], 30.0),
    ([(50, 40), (60, 30)], 35.0),
    ([(50, 20), (60, 30)], 30.0),  # a dominated point adds nothing
    ([(45, 44), (45, 40), (55, 36), (70, 20)], 0.25 * 44 + 18 + 5),
]


@pytest.mark.parametrize(('points', 'area'), AREAS)
def test_areas_by_hand(points: list[Any], area: float) -> None:
    clean, worst = np.array(points, float).T
    assert hypervolume(clean, worst, (40, 60)) == pytest.approx(area)


def test_area_against_a_sum() -> None:
    rng = np.random.default_rng(0)
    clean, worst = rng.uniform(20, 80, (2, 7, 5))
    asked = np.linspace(35, 65, 30_001)
    given = np.where(clean[..., None] >= asked, worst[..., None], 0).max(1)
    found = hypervolume(clean, worst, (35, 65))
    assert found == pytest.approx(given.mean(-1), abs=0.01)


def test_worst_case_of_each_image() -> None:
    label = np.array([0, 1, 2, 3])
    pgd, square = np.array([0, 1, 0, 3]), np.array([0, 0, 2, 3])
    clean = np.array([0, 1, 2, 0])
    predictions = dict(index=label, label=label, clean=clean)
    found = correct_images(predictions | dict(pgd=pgd, square=square))
    assert found.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]


def _counted(correct: np.ndarray) -> dict[str, Any]:
    clean, worst = 100 * correct.mean(1)
    return dict(clean=clean, attacks={}, worst_case=worst)


def test_curves_of_images() -> None:
    """Against the same by loops; the better curve is ahead."""
    rng = np.random.default_rng(1)
    points = dict(good=['g1', 'g2'], bad=['b1', 'b2'])
    correct = {}
    for name, shift in zip(('g1', 'g2', 'b1', 'b2'), (0, 0.2, -0.3, -0.2)):
        correct[name] = []
        for _ in range(2):
            draws = rng.random(200)
            # More clean accuracy for less robustness.
            worst = draws < 0.3 - shift / 4 + (0.1 if name[0] == 'g' else 0)
            clean = worst | (draws < 0.5 + shift)
            correct[name].append(np.stack([clean, worst]))
    counted = {name: [*map(_counted, one)] for name, one in correct.items()}
    entries = summary.summarise(counted)
    found = make_curves(points, entries, correct, (20.0, 70.0))
    good, bad = (found['curves'][name] for name in points)
    for curve, names in ((good, points['good']), (bad, points['bad'])):
        means = [np.mean(correct[name], axis=(0, 2)) * 100 for name in names]
        clean, worst = np.transpose(means)
        expected = hypervolume(clean, worst, (20.0, 70.0))
        assert curve['hypervolume'] == pytest.approx(expected)
        drawn = []
        for _ in range(400):
            images, at = rng.integers(200, size=200), []
            for name in names:
                seeds = [correct[name][k] for k in rng.integers(2, size=2)]
                at.append(100 * np.mean(seeds, axis=0)[:, images].mean(1))
            drawn.append(hypervolume(*np.transpose(at), (20.0, 70.0)))
        low, high = np.percentile(drawn, [2.5, 97.5])
        assert curve['interval'] == pytest.approx([low, high], abs=2.5)
    assert good['dominated'] == [] and bad['dominated'] == ['b1', 'b2']
    assert good['largest'] > 99 > 1 > bad['largest']
    table = summary.curves_to_markdown(found).splitlines()
    assert table[0].startswith('| curve | points | dominated | hypervolume')
    assert '20.0 to 70.0 % clean' in table[0]
    assert '| b1, b2 | b1, b2 |' in table[3]
    # Without ``between``: from the lowest to the highest point.
    ends = make_curves(points, entries, correct)['between']
    every = [entry.mean['clean'] for entry in entries]
    assert ends == [min(every), max(every)]
