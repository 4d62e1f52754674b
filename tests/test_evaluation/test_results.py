from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from m2at_mm.attacks import ThreatModel
from m2at_mm.evaluation.results import (
    make_results,
    print_results,
    write_results,
)

METRICS = {
    'robust/clean': 87.5,
    'robust/pgd20': 55.125,
    'robust/cw20': 52.0,
    'robust/worst': 51.0,
}
MASKED = {**METRICS, 'robust/cw20': 40.0, 'robust/worst': 39.5}


def results(metrics: dict[str, float] = METRICS) -> dict[str, Any]:
    return make_results(metrics, 1000, ThreatModel('linf', '8/255'))


def test_schema() -> None:
    assert results() == {
        'clean': 87.5,
        'attacks': {'pgd20': 55.125, 'cw20': 52.0},
        'worst_case': 51.0,
        'num_samples': 1000,
        'threat_model': {'norm': 'linf', 'eps': 8 / 255},
        'alarms': [],
    }


def test_clean_alone() -> None:
    made = make_results(
        {'robust/clean': 90.0, 'robust/worst': 90.0},
        10,
        ThreatModel('l2', 0.5),
    )

    assert made['attacks'] == {}
    assert made['clean'] == made['worst_case'] == 90.0
    assert made['threat_model'] == {'norm': 'l2', 'eps': 0.5}


def test_alarm_is_plain_data() -> None:
    [alarm] = results(MASKED)['alarms']

    assert alarm.keys() == {'name', 'message'}
    assert alarm['name'] == 'margin_below_cross_entropy'
    assert '1000 images' in alarm['message']


def test_other_metrics_and_the_given_ones_stay_out() -> None:
    given = {**METRICS, 'accuracy/top1': 87.5}
    before = dict(given)

    assert results(given) == results()
    assert given == before


@pytest.mark.parametrize('metrics', [METRICS, MASKED], ids=['good', 'masked'])
def test_file_holds_the_results(
    tmp_path: Path, metrics: dict[str, float]
) -> None:
    path = tmp_path / 'new' / 'folder' / 'results.json'

    write_results(results(metrics), path)

    assert json.loads(path.read_text('utf-8')) == results(metrics)
    assert [file.name for file in path.parent.iterdir()] == ['results.json']


def test_old_file_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, kept = tmp_path / 'results.json', tmp_path / 'results.json.old'
    path.write_text('precious')

    write_results(results(), path)

    assert kept.read_text() == 'precious'
    assert json.loads(path.read_text('utf-8')) == results()
    assert str(kept) in capsys.readouterr().out


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_results(results())

    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert '1000 images, linf, eps 8/255' in printed
    for name, figure in {
        'clean': '87.50',
        'pgd20': '55.12',
        'cw20': '52.00',
        'worst case': '51.00',
    }.items():
        [row] = [line for line in lines if f' {name} ' in line]
        assert figure in row
    assert 'ALARM' not in printed


def test_table_has_the_alarms_under_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_results(results(MASKED))

    table, alarm, message = capsys.readouterr().out.partition('ALARM')
    assert alarm and '39.50' in table
    assert 'margin_below_cross_entropy' in message
    assert '15.1 points apart' in ' '.join(message.split())
