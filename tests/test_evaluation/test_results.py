import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_support import N
from evaluation_support import nested_outcome as outcome
from scipy.stats import binomtest

from m2at_mm.attacks import ThreatModel
from m2at_mm.evaluation import Outcomes
from m2at_mm.evaluation.outcomes import percent, wilson_interval
from m2at_mm.evaluation.results import (
    make_results,
    per_sample,
    print_results,
    write_results,
)

GOOD = outcome(clean=87.5, pgd20=55.1, cw20=52.0)
MASKED = outcome(clean=87.5, pgd20=55.1, cw20=40.0)


@pytest.mark.parametrize(
    ('successes', 'total'), [(0, 10), (3, 10), (10, 10), (512, 1000)]
)
def test_interval_is_that_of_scipy(successes: int, total: int) -> None:
    expected = binomtest(successes, total).proportion_ci(method='wilson')
    ends = pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-4)
    assert wilson_interval(successes, total) == ends


def test_worst_case_is_per_image() -> None:
    rows = np.array([[0, 1, 2, 0], [0, 2, 2, 0], [1, 1, 2, 0]])
    predictions = dict(zip(('clean', 'pgd20', 'cw20'), rows))
    made = Outcomes(ThreatModel(), np.arange(4), predictions)
    assert made.worst().tolist() == [False, False, True, False]
    assert percent(made.worst()) == 25.0
    assert percent(made.correct('pgd20')) == 50.0
    assert made.attacks == ['pgd20', 'cw20']


def test_schema() -> None:
    made = make_results([GOOD], {}, dict(seed=0))
    intervals = made.pop('intervals')
    assert made == {
        'clean': 87.5,
        'attacks': {'pgd20': 55.1, 'cw20': 52.0},
        'worst_case': 52.0,
        'num_samples': 1000,
        'threat_model': {'norm': 'linf', 'eps': 8 / 255},
        'alarms': [],
        'class_counts': 10 * [100],
        'pgd_minus_autoattack': None,
        'autoattack_parts': {},
        'notes': [],
        'probes': {},
        'settings': {'seed': 0},
    }
    assert intervals.keys() == {'clean', 'pgd20', 'cw20', 'worst_case'}
    low, high = intervals['worst_case']
    assert 48.8 < low < 49 and 55 < high < 55.2


def test_second_opinion_counts_in_the_worst_case() -> None:
    made = outcome(clean=87.5, pgd20=55.1, cw20=52)
    made.second_opinion = outcome(all=49.5).predictions['all']
    results = make_results([made], {})
    assert results['second_opinion'] == dict(asked=520, fooled=25)
    assert results['worst_case'] == 49.5
    assert results['attacks'] == {'pgd20': 55.1, 'cw20': 52.0}
    arrays = per_sample([made])
    label = arrays.pop('label')
    right = np.logical_and.reduce([one == label for one in arrays.values()])
    assert 100 * right.mean() == 49.5


def test_gap_to_autoattack_and_sweep() -> None:
    made = outcome(clean=80, pgd20=55, pgd100=54, autoattack=50)
    made.parts['autoattack'] = outcome(**{'apgd-ce': 53}).predictions
    results = make_results([made, outcome('2/255', clean=80, pgd20=70)], {})
    assert results['pgd_minus_autoattack'] == pytest.approx(4)
    assert results['autoattack_parts'] == {'autoattack': {'apgd-ce': 53.0}}
    assert results['threat_model']['eps'] == 8 / 255
    # In the order of the radius.
    assert [one['attacks']['pgd20'] for one in results['sweep']] == [70, 55]


def test_per_sample_predictions() -> None:
    one = per_sample([GOOD])
    assert list(one) == ['label', 'clean', 'pgd20', 'cw20']
    assert 100 * (one['pgd20'] == one['label']).mean() == pytest.approx(55.1)
    other = outcome('4/255', clean=87.5, pgd20=60)
    two = per_sample([GOOD, other])
    assert 'pgd20@8/255' in two and 'pgd20@4/255' in two
    other.positions = np.arange(N)[::-1]
    arrays = per_sample([other])
    assert list(arrays) == ['index', 'label', 'clean', 'pgd20']
    assert arrays['index'].tolist() == other.positions.tolist()


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / 'new' / 'results.json'
    results, samples = make_results([GOOD], {}), per_sample([GOOD])

    def names() -> set[str]:
        return {file.name for file in path.parent.iterdir()}

    write_results(results, samples, path)
    read = json.loads(path.read_text('utf-8'))
    assert read == json.loads(json.dumps(results))
    with np.load(path.with_suffix('.samples.npz')) as file:
        assert file['cw20'].tolist() == samples['cw20'].tolist()
    # The same again is left as it is, other results are kept.
    write_results(results, samples, path)
    assert names() == {'results.json', 'results.samples.npz'}
    write_results(make_results([MASKED], {}), per_sample([MASKED]), path)
    kept = json.loads((path.parent / 'results.json.old').read_text())
    assert kept['attacks']['cw20'] == 52.0
    write_results(results, samples, path)
    assert names() >= {'results.samples.npz.old', 'results.json.old2'}
    assert 'results.json.old' in capsys.readouterr().out


def _printed(outcome: Outcomes, capsys: Any, **results: Any) -> str:
    probed = dict(results, probes=dict(num_images=1))
    print_results({**make_results([outcome], {}), **probed}, [outcome])
    return capsys.readouterr().out


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    printed = _printed(GOOD, capsys)
    assert '1000 images, linf, eps 8/255' in printed
    figures = dict(clean='87.50', pgd20='55.10', cw20='52.00')
    figures['worst case'] = '48.9 to 55.1'
    for name, figure in figures.items():
        [row] = [line for line in printed.splitlines() if f' {name} ' in line]
        assert figure in row
    assert 'ALARM' not in printed and 'no sign of masked' in printed


def test_under_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    printed = _printed(MASKED, capsys, pgd_minus_autoattack=3.25)
    table, alarm, message = printed.partition('ALARM')
    assert alarm and '40.00' in table and '3.25 points' in table
    assert 'margin_below_cross_entropy' in message
    assert '15.1 points apart' in ' '.join(message.split())


@pytest.mark.parametrize(
    ('labels', 'classes', 'printed', 'noted'),
    [
        ([0, 1, 1, 0], 2, '2 of each of 2', None),
        ([0, 2, 2, 2], 4, '0: 1, 1: 0, 2: 3, 3: 0', None),
        ([1, 1, 1], 2, '0: 0, 1: 3', 'one class has 3 of 3 images'),
        ([1], 2, '0: 0, 1: 1', None),
        (range(30), 60, '0 to 1 of 60 classes', None),
        ([0] * 40 + [*range(60)], 60, '1 to 41', 'one class has 41 of 100'),
    ],
    ids=['even', 'few', 'one class', 'one image', 'many', 'uneven'],
)
def test_images_of_each_class_are_counted(
    labels: Sequence[int], classes: int, printed: str, noted: Any, capsys: Any
) -> None:
    truth = np.array(labels)
    made = Outcomes(ThreatModel(), truth, dict(clean=truth))
    made.num_classes = classes
    results = make_results([made], {})
    counts = [list(labels).count(one) for one in range(classes)]
    assert results['class_counts'] == counts
    assert f'images per class: {printed}' in _printed(made, capsys)
    notes = results['notes']
    assert len(notes) == (noted is not None)
    assert noted is None or noted in notes[0]
