from pathlib import Path

import numpy as np
import pytest
from report_support import Page, results_of, write_results, write_session

from m2at_mm.reporting import Report, read_run
from m2at_mm.reporting import accuracy_sections as sections


def test_intervals_are_computed_where_they_are_missing() -> None:
    given = {'clean': [1.0, 99.0]}
    found = sections.accuracies(results_of({'pgd20': 50.0}, intervals=given))
    assert list(found) == ['clean', 'pgd20', 'worst_case']
    assert found['clean'] == (80.0, (1.0, 99.0))
    # 50 of 100: 40.4 to 59.6, as in any table of Wilson's interval.
    assert found['pgd20'][1] == pytest.approx((40.383, 59.617), abs=1e-3)


def test_final_evaluation(report: Report) -> None:
    page = Page(sections.evaluation(report))
    ((head, row),) = page.tables
    attacks = ['clean', 'fgsm', 'pgd20', 'worst_case']
    start = ['run', 'checkpoint', 'eps', 'images']
    assert head == [*start, *attacks, 'alarms']
    assert row[:4] == ['one', 'epoch_3.pth', 'linf 8/255', '100']
    half = '50.0 40.4 to 59.6'
    shown = ['80.0 71.1 to 86.7', '60.0 50.2 to 69.1', half, half]
    assert row[4:] == [*shown, '1']
    assert page.all('p')[-2] == {'class': 'warn'}
    for text in (
        'one: saturated_loss: look',
        'two has no results.json',
        'one: 80.0 % clean and at most 50.0 % under linf 8/255, on 100 images',
        'upper bound',
        'Run AutoAttack',
    ):
        assert text in page.text


def test_attacks_of_all_runs(report: Report, tmp_path: Path) -> None:
    results = results_of({'autoattack': 40.0}, pgd_minus_autoattack=2.04)
    write_results(tmp_path / 'two', results)
    runs = [report.runs[0], read_run(tmp_path / 'two')]
    page = Page(sections.evaluation(Report(runs)))
    ((head, _, row),) = page.tables
    attacks = ['clean', 'fgsm', 'pgd20', 'autoattack', 'worst_case']
    assert head[4:-1] == attacks and row[5] == '–'
    assert 'AutoAttack is 2.0 points below that under PGD.' in page.text


def test_a_sweep_begins_with_clean(report: Report) -> None:
    page = Page(sections.sweep(report))
    ((head, row),) = page.tables
    assert head == ['run', '0/255', '8/255'] and row[0] == 'one'
    assert row[1:] == ['80.0 71.1 to 86.7', '50.0 40.4 to 59.6']
    assert 'two: no evaluation at several radii.' in page.text
    nothing = Page(sections.sweep(Report(report.runs[1:])))
    assert not nothing.tables and not nothing.all('svg')


@pytest.mark.parametrize('at', ['', '@8/255'])
def test_confusion_under_the_strongest_attack(report: Report, at: str) -> None:
    run, other = report.runs
    names = {name: name + at for name in ('fgsm', 'pgd20')}
    renamed = {names.get(k, k): v for k, v in run.predictions.items()}
    write_results(run.folder, run.results or {}, **renamed)
    page = Page(sections.confusions(Report([read_run(run.folder), other])))
    assert len(page.all('svg')) == 2
    assert 'Under pgd20' in page.text and 'Under fgsm' not in page.text
    # Clean, and under attack: one image has no finite logits.
    assert 'Per cent right by class: 0 100, 1 100, 2 0.' in page.text
    assert 'Per cent right by class: 0 0, 1 50, 2 0.' in page.text
    assert 'There are no predictions per image' in page.text


def test_many_classes_become_a_table(tmp_path: Path) -> None:
    write_session(tmp_path)
    labels = np.arange(60) % 30
    predicted = np.where(labels == 3, 17, labels)
    given = dict(label=labels, clean=labels, pgd20=predicted)
    write_results(tmp_path, results_of({'pgd20': 50.0}), **given)
    page = Page(sections.confusions(Report([read_run(tmp_path)])))
    (_, *clean), (_, *attacked) = page.tables
    assert clean == [] and attacked == [['3', '17', '2']]
