import json
import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from report_support import Page, results_of, write_results

from m2at_mm.reporting import Report, headline, read_run


def test_the_box_of_a_result(report: Report) -> None:
    page = Page(headline.result(report))
    for text in (
        '50.0 % worst case under linf 8/255 95 % interval 40.4 to 59.6',
        '80.0 % (71.1 to 86.7)',
        'pgd20, 50.0 %',
        'saturated_loss',
        'epoch_3.pth',
        'An upper bound',
        'Run AutoAttack, too',
        'two was not evaluated: tools/test.py does it.',
    ):
        assert text in page.text, text
    assert page.all('dd')[3] == {'class': 'warn'}
    assert [attrs['class'] for attrs in page.all('p')[2:]] == ['warn']


def _box(report: Report, results: dict[str, Any]) -> str:
    folder = report.runs[0].folder
    write_results(folder, results)
    run = Report([read_run(folder)])
    return ''.join(headline.result(run)).replace('</dt><dd>', '\n')


@pytest.mark.parametrize(
    ('name', 'told'),
    [
        ('best_robust_pgd10_epoch_2.pth', ', the best in validation'),
        ('epoch_3.pth', 'epoch_3.pth, the last'),
        ('epoch_1.pth', 'epoch_1.pth'),
        (None, 'not named'),
    ],
)
def test_best_or_last(report: Report, name: str | None, told: str) -> None:
    folder = report.runs[0].folder
    (folder / 'epoch_3.pth').touch()
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_3.pth'))
    settings = dict(settings=dict(checkpoint=name))
    text = _box(report, results_of({'pgd20': 50.0}, **settings))
    assert f'{told}</dd>' in text


def test_images_and_autoattack(report: Report) -> None:
    attacks = {'pgd20': 42.04, 'autoattack': 40.0}
    more: Any = dict(pgd_minus_autoattack=2.04, class_counts=[50, 0, 50])
    text = _box(report, results_of(attacks, **more))
    assert '100, of 2 of 3 classes' in text
    assert 'AutoAttack is 2.0 points below that under PGD.' in text


def test_an_older_evaluation_that_found_more(report: Report) -> None:
    folder = report.runs[0].folder
    settings: Any = dict(settings=dict(weights='a1', images='b2'))
    for number, (name, attacks, images) in enumerate(
        [
            ('results.json.old', {'autoattack': 30.0}, 'b2'),
            ('results.json.old2', {'pgd20': 60.0}, 'b2'),  # not lower
            ('elsewhere.json', {'pgd20': 10.0}, 'c3'),  # of other images
            ('results.json', {'pgd20': 50.0}, 'b2'),
        ]
    ):
        settings['settings']['images'] = images
        path = folder / name
        path.write_text(json.dumps(results_of(attacks, **settings)))
        os.utime(path, (number, number))
    text = Page(headline.result(Report([read_run(folder)]))).text
    assert text.count('an older evaluation') == 1
    assert 'results.json.old, left 30.0 %, under autoattack.' in text


def test_alarms_of_the_sweep(report: Report) -> None:
    run, _ = report.runs
    found = results_of({'pgd20': 60.0})
    found['alarms'] = [dict(name='larger_eps_does_not_help')] * 2
    measured: Any = {run.name: SimpleNamespace(results=found)}
    results = results_of({'pgd20': 50.0})
    run = replace(run, results=results)
    text = Page(headline.result(Report([run], measured))).text
    told = 'larger_eps_does_not_help (in the sweep of this report)'
    assert text.count('larger_eps') == 1 and told in text
    swept = replace(run, results=dict(results, sweep=[]))
    assert 'larger_eps' not in ''.join(
        headline.result(Report([swept], measured))
    )


def test_chosen_on_the_test_images(report: Report) -> None:
    run, _ = report.runs
    settings = dict(settings=dict(checkpoint='best_epoch_2.pth'))
    loaders = {f'{p}_dataloader': dict(dataset=p) for p in ('val', 'test')}
    run = replace(run, results=results_of({'pgd20': 50.0}, **settings))
    for loader, told in (('test', 'on the test images'), ('val', 'in valid')):
        config = dict(loaders, val_dataloader=dict(dataset=loader))
        page = Page(headline.result(Report([replace(run, config=config)])))
        assert f'best_epoch_2.pth, the best {told}' in page.text


def test_clean_images_alone(report: Report) -> None:
    results = results_of({'fgsm': 80.0}) | dict(attacks={})
    assert 'strongest attack\nnone was run' in _box(report, results)


def test_unlike_results_side_by_side(report: Report) -> None:
    first, second = report.runs
    other = replace(second, results=results_of({'pgd20': 1.0}, sweep=[]))
    text = Page(headline.result(Report([first, other]))).text
    assert 'The evaluations differ in attacks: do not compare' in text
    like = replace(second, results=first.results)
    assert 'differ' not in Page(headline.result(Report([first, like]))).text
