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
    ((head, *rows),) = page.tables
    assert head == ['', 'one']
    half = '50.0 40.4 to 59.6'
    assert rows == [
        ['clean', '80.0 71.1 to 86.7'],
        ['fgsm', '60.0 50.2 to 69.1'],
        ['pgd20', half],
        ['worst_case', half],
        ['checkpoint', 'epoch_3.pth'],
        ['alarms', '1'],
    ]
    assert page.all('p')[-2] == {'class': 'warn'}
    for text in (
        'under linf 8/255 on 100 images',
        'one: from results.json.',
        'one: saturated_loss: look',
        'two has no results of tools/test.py',
    ):
        assert text in page.text


def _other(report: Report, results: dict) -> Report:
    write_results(report.runs[1].folder, results)
    return Report([report.runs[0], read_run(report.runs[1].folder)])


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        ({}, None),
        ({'num_samples': 50}, 'images'),
        ({'settings': {'images': 'c3a1'}}, 'images'),
        ({'threat_model': {'norm': 'linf', 'eps': 4 / 255}}, 'radius'),
        ({'threat_model': {'norm': 'l2', 'eps': 8 / 255}}, 'radius'),
        ({'attacks': {'autoattack': 40.0}}, 'attacks'),
        ({'attacks': {'fgsm': 1.0}, 'num_samples': 9}, 'images, attacks'),
    ],
)
def test_unlike_evaluations_share_no_table_or_figure(
    report: Report, change: dict, told: str | None
) -> None:
    results = results_of({'fgsm': 55.0, 'pgd20': 45.0}) | change
    page = Page(sections.evaluation(_other(report, results)))
    heads = [table[0] for table in page.tables]
    assert len(page.all('svg')) == len(heads)
    if told is None:
        assert heads == [['', 'one', 'two']]
        assert 'differ' not in page.text
    else:
        assert heads == [['', 'one'], ['', 'two']]
        assert f'The evaluations differ in {told}: do not' in page.text


def test_a_sweep_begins_with_clean(report: Report) -> None:
    page = Page(sections.sweep(report))
    ((head, row),) = page.tables
    assert head == ['run', '0/255', '8/255'] and row[0] == 'one'
    assert row[1:] == ['80.0 71.1 to 86.7', '50.0 40.4 to 59.6']
    assert 'two: no evaluation at several radii.' in page.text
    nothing = Page(sections.sweep(Report(report.runs[1:])))
    assert not nothing.tables and not nothing.all('svg')


def test_sweeps_of_other_images_are_apart(report: Report) -> None:
    wider = dict(threat_model=dict(norm='linf', eps=16 / 255))
    # Other radii of the same images share table and figure.
    results = results_of({'fgsm': 30.0, 'pgd20': 20.0}) | wider
    results['sweep'] = [results_of({'pgd20': 20.0}) | wider]
    page = Page(sections.sweep(_other(report, results)))
    ((head, first, second),) = page.tables
    assert head == ['run', '0/255', '8/255', '16/255']
    assert first[3] == second[2] == '–'
    page = Page(sections.sweep(_other(report, results | {'num_samples': 7})))
    assert [table[1][0] for table in page.tables] == ['one', 'two']
    assert 'The evaluations differ in images' in page.text


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
