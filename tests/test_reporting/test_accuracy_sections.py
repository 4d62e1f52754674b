from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_support import results_of, write_results, write_session

from m2at_mm.reporting import accuracy_sections
from m2at_mm.reporting.blocks import Section
from m2at_mm.reporting.run_log import RunLog, read_run, read_runs


def _content(section: Section, kind: str) -> list[Any]:
    return [one.content for one in section.blocks if one.kind == kind]


@pytest.fixture()
def runs(tmp_path: Path) -> list[RunLog]:
    """A run with results and an alarm, and one without."""
    for name in ('one', 'two'):
        write_session(tmp_path / name)
    results = results_of({'fgsm': 60.0, 'pgd20': 50.0})
    results['alarms'] = [dict(name='saturated_loss', message='look')]
    results['sweep'] = [results_of({'pgd20': 50.0})]
    predictions = dict(
        label=[0, 1, 1, 2], clean=[0, 1, 1, 1], fgsm=[0, 1, 0, 1]
    )
    write_results(
        tmp_path / 'one', results, dict(predictions, pgd20=[1, 1, 0, 1])
    )
    return read_runs([tmp_path / 'one', tmp_path / 'two'])


def test_final_evaluation(runs: list[RunLog]) -> None:
    section = accuracy_sections.evaluation(runs)
    (table,) = _content(section, 'table')
    (row,) = table.rows
    cells = dict(zip(table.head, row))
    assert cells['run'] == 'one' and cells['eps'] == 'linf 8/255'
    assert cells['pgd20'] == ('50.0', '40.4 to 59.6')
    assert cells['alarms'] == '1' and cells['images'] == '100'
    warnings = [one.text for one in section.blocks if one.kind == 'warning']
    assert warnings == ['one: saturated_loss: look']
    texts = [one.text for one in section.blocks if one.kind == 'text']
    assert any(text.startswith('two has no results.json') for text in texts)
    assert texts[0].startswith('one: 80.0 % clean and at most ')
    assert 'under linf 8/255, on 100 images' in texts[0]
    assert 'upper bound' in texts[0] and 'Run AutoAttack' in texts[0]


@pytest.mark.parametrize(
    ('gap', 'end'),
    [(2.04, 'leaves 2.0 points less than PGD.'), (None, 'lower it.')],
)
def test_gap_to_autoattack(
    tmp_path: Path, gap: float | None, end: str
) -> None:
    results = results_of({'autoattack': 40.0}, pgd_minus_autoattack=gap)
    write_session(tmp_path / 'run')
    write_results(tmp_path / 'run', results)
    section = accuracy_sections.evaluation(read_runs([tmp_path / 'run']))
    assert section.blocks[0].text.endswith(end)


def test_sweep_of_the_results(runs: list[RunLog]) -> None:
    section = accuracy_sections.sweep(runs, {})
    (table,) = _content(section, 'table')
    assert table.head == ['run', '0/255', '8/255']
    assert [row[0] for row in table.rows] == ['one']
    texts = [one.text for one in section.blocks if one.kind == 'text']
    assert 'two: no evaluation at several radii.' in texts


def test_confusion_under_the_strongest_attack(runs: list[RunLog]) -> None:
    section = accuracy_sections.confusions(runs, {})
    (figures,) = _content(section, 'figures')
    assert [str(svg).count('Under pgd20') > 0 for svg in figures] == [
        False,
        True,
    ]
    assert 'Per cent right by class: 0 0, 1 50, 2 0.' in figures[1]
    texts = [one.text for one in section.blocks if one.kind == 'text']
    assert texts[-1].startswith('There are no predictions per image')


def test_many_classes_become_a_table(tmp_path: Path) -> None:
    write_session(tmp_path)
    labels = np.arange(60) % 30
    predicted = np.where(labels == 3, 17, labels)
    write_results(
        tmp_path,
        results_of({'pgd20': 50.0}),
        dict(label=labels, clean=labels, pgd20=predicted),
    )
    section = accuracy_sections.confusions([read_run(tmp_path)], {})
    clean, attacked = _content(section, 'table')
    assert clean.rows == [] and attacked.rows == [['3', '17', '2']]
